"""Compensates linear maps for removed input channels: the best weights on the kept channels, in closed form.

    W', b' = argmin E w |W' x_k + b' - W x - b|^2 + RIDGE s |W' - W_k|^2     x_k: kept channels, x_c: removed ones
    W' = W_k + W_c C_ck (C_kk + RIDGE s 1)^-1,   b' = b + W m - W' m_k

x is the map's input in the whole model on calibration data, w = 1 / |x|^2, m the mean of x and C its covariance under
these weights, s the mean of C_kk's diagonal. Without b, C is the matrix of second moments. It is the solution of
Frantar and Alistarh, "Optimal Brain Compression", arXiv:2208.11580, for pruning all other inputs at once.

It is only applied to maps that read the residual stream. For maps that read heads or FFN units it also approximates the
outputs better, but a sentence encoder with fewer heads or units then embeds worse before it is trained.
Shapes: N outputs, D channels, k kept ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import ArtifactError
from nas.training.checkpoint import write_whole_tensors
from searchspace.model import Model
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec
from searchspace.supernet.slicing import take
from searchspace.supernet.supernet import Supernet

MOMENTS = "moments.safetensors"
RIDGE = 0.1
MOST_INPUTS = 4096  # of a map; for more inputs the moments would be larger than the model
MOST_TOKENS = 4096
SOLVED = 64  # solutions in the cache
Moments = dict[str, Tensor]  # by map, [D + 1, D + 1]: weighted second moments of its inputs with a 1 appended


def readers(model: Model) -> dict[str, AxisModule]:
    """The dense linear maps of a network that read channels, by name."""
    found = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, AxisModule) and getattr(part, "kind", "") == "dense"
    }
    axes = {name: part.declared["weight"].axes[-1] for name, part in found.items()}
    return {n: part for n, part in found.items() if axes[n].names == "D" and axes[n].size <= MOST_INPUTS}


@torch.no_grad()
def moments(model: Model, batches: Sequence[tuple[Tensor, Tokens]]) -> Moments:
    """The moments [D + 1, D + 1] of every map of `readers`, over real tokens; stops after MOST_TOKENS tokens.

    Batches are (inputs [B, T] or images [B, C, H, W], tokens).
    """
    sums: Moments = {}
    counts: dict[str, int] = {}
    valid: list[Tensor | None] = [None]

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            x, mask = given[0], valid[0]
            rows = x[mask] if mask is not None and x.shape[:2] == mask.shape else x.flatten(0, -2)
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            rows = rows / rows[:, :-1].norm(dim=1, keepdim=True).clamp_min(1e-6)
            sums[path] = sums.get(path, 0) + rows.mT @ rows
            counts[path] = counts.get(path, 0) + len(rows)

        return hook

    handles = [part.register_forward_pre_hook(watch(path)) for path, part in readers(model).items()]
    try:
        for inputs, tokens in batches:
            valid[0] = tokens.valid
            model(inputs, tokens)
            if max(counts.values(), default=0) >= MOST_TOKENS:
                break
    finally:
        for handle in handles:
            handle.remove()
    return {path: total / total[-1, -1] for path, total in sums.items()}


def save_moments(folder: Path, found: Moments) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole_tensors(folder / MOMENTS, found)


def load_moments(folder: Path) -> Moments:
    """The moments saved in `folder`, {} if there are none. Raises ArtifactError if the file is damaged."""
    path = folder / MOMENTS
    try:
        return load_file(path) if path.exists() else {}
    except SafetensorError as error:
        raise ArtifactError(f"{path}: {error}; delete {folder} to make it again") from error


class Compensation:
    """Compensated weights for the networks of a supernet, from the moments of the whole model in it."""

    def __init__(self, supernet: Supernet, found: Moments) -> None:
        self.supernet, self.moments = supernet, found
        self._solved = lru_cache(SOLVED)(self._solve)

    def weights(self, arch: ArchSpec) -> dict[str, Tensor]:
        """The weights of a network by name, `[...]` each; those of maps with fewer inputs [N, k] are compensated."""
        held = {name: t.detach().clone() for name, t in self.supernet.weights(arch).items()}
        with torch.device("meta"):
            skeleton = Model(arch.unquantized)
        for path, part in readers(skeleton).items():
            out, inp = part.declared["weight"].axes
            have = self.supernet.declared[f"{path}.weight"].axes
            if inp == have[1] or path not in self.moments or len(self.moments[path]) != have[1].size + 1:
                continue
            weight, bias = self._solved(path, inp)
            held[f"{path}.weight"] = take(weight, (have[0], inp), (out, inp)).clone()
            if bias is not None:
                held[f"{path}.bias"] = take(bias, have[:1], (out,)).clone()
        return held

    def _solve(self, path: str, inp: Axis) -> tuple[Tensor, Tensor | None]:
        """(W' [N, k], b' [N]) for all outputs of the supernet's map `path`; b' is None if the map has no bias."""
        tensors, have = self.supernet.tensors, self.supernet.declared[f"{path}.weight"].axes
        weight = tensors[f"{path}.weight"].detach().double().cpu()
        bias = tensors.get(f"{path}.bias")
        second = self.moments[path].double()
        mean, second = second[-1, :-1], second[:-1, :-1]
        if bias is not None:
            second = second - mean.outer(mean)
        kept = take(torch.arange(have[1].size), have[1:], (inp,))
        lost = torch.ones(have[1].size, dtype=torch.bool).index_fill(0, kept, False)
        square = second[kept][:, kept]
        square = square + RIDGE * square.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
        made_up = torch.linalg.solve(square, second[kept][:, lost] @ weight[:, lost].mT).mT
        solved = weight[:, kept] + made_up
        if bias is None:
            return solved.float(), None
        shift = bias.detach().double().cpu() + weight @ mean - solved @ mean[kept]
        return solved.float(), shift.float()
