"""Data parallel training: every process holds the whole supernet and computes its parts of each batch.

Gradients are summed over the processes, network by network (torch.distributed with gloo; Ray only runs trials), so
that all processes make the same update. A step with n processes and n parts computes the same as one process with n
parts, up to the order of summation. The processes connect through a file that only this user can read, not a port.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nas.errors import NasError

Gradients = list[Tensor | None]  # one per trained tensor, None if the network does not use it
Found = tuple[Tensor, Gradients]  # a loss [] in float64 and its gradients
Help = Callable[..., None]

PATIENCE = timedelta(minutes=10)  # how long a process waits for the others
SECONDS_TO_END = 10


class ProcessLost(NasError):
    """A process of a data parallel training ended before the training did."""


@dataclass(frozen=True)
class Share:
    """Index and number of the processes of a training."""

    rank: int = 0
    processes: int = 1

    def sum(self, value: Tensor, gradients: Gradients) -> Found:
        """Sum a loss [] and gradients, each `[...]` like its tensor, over all processes, with equal bits in each.

        All processes must have gradients of the same tensors. Raises ProcessLost if one has ended.
        """
        if self.processes == 1:
            return value, gradients
        present = [g for g in gradients if g is not None]
        flat = torch.cat([value.float().reshape(1), *(g.flatten() for g in present)])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise ProcessLost(
                f"a process of this data parallel training has ended: {str(error).splitlines()[0]}; start the training "
                "again, it continues from its last checkpoint"
            ) from error
        summed = iter(torch.split(flat[1:], [g.numel() for g in present]))
        return flat[0].double(), [None if g is None else next(summed).view_as(g) for g in gradients]


@contextmanager
def helpers(processes: int, work: Help, arguments: tuple[Any, ...]) -> Iterator[Share]:
    """Start processes that run `work(share, *arguments)`, each with its share; yields the share of this process."""
    if processes == 1:
        yield Share()
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "processes"
        others = [
            context.Process(target=_run, args=(Share(rank, processes), meeting, work, arguments), daemon=True)
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            _meet(Share(0, processes), meeting)
            yield Share(0, processes)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for other in others:
                other.join(timeout=SECONDS_TO_END)
                if other.is_alive():
                    other.terminate()


def _run(share: Share, meeting: Path, work: Help, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    _meet(share, meeting)
    try:
        work(share, *arguments)
    except NasError:
        pass  # the first process meets the same error and reports it
    finally:
        dist.destroy_process_group()


def _meet(share: Share, meeting: Path) -> None:
    store = dist.FileStore(str(meeting), share.processes)
    dist.init_process_group(
        "gloo", store=store, rank=share.rank, world_size=share.processes, timeout=PATIENCE
    )
