"""Latency of whole networks, each timed in alternation with one fixed reference network.

Only real models are measured, never slices of a supernet. On a CPU the default is one thread: an operator on one
sequence of 64 tokens has too little work to share, and a second thread adds noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from predictors.device import device_name, software
from predictors.onnx_graphs import Graphs
from predictors.runtimes import EAGER, ONNXRUNTIME
from predictors.timing import Call, Timing, num_threads, time_interleaved
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload

_ATTENTION = plain_attention(2, 1, 32)
_BLOCK = BlockSpec(
    mixer=_ATTENTION,
    ffn=OpSpec.of("mlp", d_ff=256, activation=OpSpec("gelu")),
    norm=OpSpec("rmsnorm"),
    projection=OpSpec.of("dense", bias=False),
)
REFERENCE = ArchSpec(
    task="causal_lm",
    stem=OpSpec.of("token_embedding", vocab_size=256, max_len=64),
    d_model=64,
    blocks=(_BLOCK, _BLOCK),
    stages=(StageSpec(2, 64),),
    head=OpSpec.of("lm_head", vocab_size=256),
    final_norm=OpSpec("rmsnorm"),
)
REFERENCE_WORKLOAD = Workload()


def measure_networks(
    models: Mapping[str, Model],
    workload: Workload,
    device: str = "cpu",
    *,
    nominal_ms: float | None = None,
    samples: int = 30,
    seconds: float = math.inf,
    threads: int = 1,
    seed: int = 0,
    runtime: str = EAGER,
    graphs: Path | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> tuple[list[Measurement], dict[str, str]]:
    """Return (latencies in the order of `models`, reasons by name for models that could not be run).

    The subject of a measurement is the model's name in `models`. `nominal_ms` is the reference latency that values are
    scaled to: the profile's, which makes them comparable with its predictions, or this run's own where None. `seconds`
    bounds the timing as in `time_interleaved`. The reference always runs in eager torch, which makes latencies of
    different runtimes comparable. `graphs` is the folder that caches onnxruntime's graphs.
    """
    makers: dict[str, Callable[[], Call]] = {
        name: partial(network_call, model, workload, device) for name, model in models.items()
    }
    with num_threads(threads):
        if runtime == ONNXRUNTIME:
            from predictors import onnxruntime_bench as bench

            makers = bench.network_makers(models, workload, threads, Graphs(graphs))
        calls, failures = runnable(makers)
        timings = (
            time_interleaved(
                calls,
                reference_call(device),
                device=device,
                samples=samples,
                seconds=seconds,
                seed=seed,
                on_round=on_round,
            )
            if calls
            else {}
        )
    return to_measurements(timings, workload, device, threads, nominal_ms, seed, runtime), failures


def reference_call(device: str) -> Call:
    """Return a forward pass of the reference network: always one sequence of 64 tokens in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network_call(Model(REFERENCE).eval(), REFERENCE_WORKLOAD, device)


def network_call(model: Model, workload: Workload, device: str) -> Call:
    """Return one call of the workload, ready to be timed. Raises ValueError where the network lacks that phase."""
    check_phase(workload, model.arch.is_causal)
    model, stem = model.to(device, dtype_of(workload)).eval(), model.arch.stem
    if workload.phase in ("forward", "train"):
        inputs = stem_inputs(stem, workload, workload.seq_len, device)
        forward: Call = partial(model, inputs)
        return train_step(forward, list(model.parameters())) if workload.phase == "train" else forward
    state = model.init_state(workload.batch_size, torch.device(device), dtype_of(workload))
    if workload.phase == "prefill":
        inputs = stem_inputs(stem, workload, workload.seq_len, device)
        return lambda: model(inputs, state=state)
    if workload.context_len:
        context = stem_inputs(stem, workload, workload.context_len, device)
        with torch.inference_mode():
            _, state = model(context, state=state)
    token = stem_inputs(stem, workload, 1, device)
    return lambda: model(token, state=state)


def check_phase(workload: Workload, is_causal: bool) -> None:
    """Raises ValueError for a decoding phase of a network that is not causal."""
    if not is_causal and workload.phase not in ("forward", "train"):
        raise ValueError(
            f"a network that is not causal only has the phases forward and train, got {workload.phase}"
        )


def train_step(forward: Call, leaves: Sequence[Tensor]) -> Call:
    """Return a call of `forward`, whose output may have any shape [...], and of its backward to `leaves`; no update."""

    def step() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            found = forward()
            output = found[0] if isinstance(found, tuple) else found
            if output.requires_grad:
                torch.autograd.grad(output.float().square().mean(), leaves, allow_unused=True)

    return step


def dtype_of(workload: Workload) -> torch.dtype:
    found: torch.dtype = getattr(torch, workload.dtype)
    return found


def stem_inputs(stem: OpSpec, workload: Workload, seq_len: int, device: str) -> Tensor:
    """Return token ids [B, T], or images [B, C, S, S] where the stem reads images."""
    generator = torch.Generator().manual_seed(0)
    B, side = workload.batch_size, stem.get("image_size")
    if side is None:
        return torch.randint(stem["vocab_size"], (B, seq_len), generator=generator).to(device)
    return torch.randn(B, stem["channels"], side, side, generator=generator).to(device, dtype_of(workload))


def runnable(makers: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """Make each call and run it once. Returns (calls that ran, reasons by name for those that failed)."""
    calls: dict[str, Call] = {}
    failures: dict[str, str] = {}
    for name, make in makers.items():
        try:
            call = make()
            with torch.inference_mode():
                call()
        except Exception as error:  # one subject that is too large or broken must not lose the others
            failures[name] = f"{type(error).__name__}: {error}"
        else:
            calls[name] = call
    return calls, failures


def to_measurements(
    timings: Mapping[str, Timing],
    workload: Workload,
    device: str,
    threads: int,
    nominal_ms: float | None,
    seed: int,
    runtime: str = EAGER,
) -> list[Measurement]:
    """Return latencies scaled to the nominal reference; `method` records the reference latency of this run."""
    return [
        _to_measurement(
            name,
            timing,
            nominal_ms,
            workload=workload,
            device=device_name(device, threads),
            seed=seed,
            implementation=runtime,
            software=software(runtime),
        )
        for name, timing in timings.items()
    ]


def _to_measurement(subject: str, timing: Timing, nominal_ms: float | None, **known: Any) -> Measurement:
    reference = nominal_ms if nominal_ms is not None else rounded(timing.reference_ms)
    ratio, p10, p90 = (rounded(r) for r in (timing.ratio, timing.ratio_p10, timing.ratio_p90))
    speed = "" if timing.is_stable else "unstable speed, "
    return Measurement(
        subject=subject,
        quantity="latency",
        value=ratio * reference,
        unit="ms",
        method=f"interleaved, {speed}reference {timing.reference_ms:.3g} ms with p90/p10 {timing.spread:.2f}",
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        p10=p10 * reference,
        p90=p90 * reference,
        samples=timing.samples,
        reference=reference,
        **known,
    )


def rounded(value: float) -> float:
    """Round to six significant digits, more than a timing has, so that stored and used values are equal."""
    return float(f"{value:.6g}")
