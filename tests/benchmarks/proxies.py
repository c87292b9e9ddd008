"""Twenty proxies of one architecture with a million parameters, together and each with its own passes.

Together they share the network, one forward and two backward passes. "Own passes" gives each proxy the built network
without shared results; "from scratch" is one `score` call per proxy, which also builds the network. Left out are the
proxy that runs the network once per block (`optin_trajectory`) and the counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from proxies.batch import Batch, random_batch
from proxies.registry import proxies, score, score_subject
from proxies.subject import Subject
from searchspace.cost import cost
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload
from tests.benchmarks.rows import Row

NAMES = (
    "activation_distance",
    "fisher",
    "gradient_norm",
    "grasp",
    "head_confidence",
    "head_importance",
    "hidden_covariance",
    "jacobian_cosine",
    "jacobian_covariance",
    "log_synflow",
    "naswot",
    "ntk_condition",
    "snip",
    "softmax_confidence",
    "synaptic_diversity",
    "synaptic_saliency",
    "synflow",
    "taylor_squared",
    "zen",
    "zico",
)
BATCH_SIZE, REPEATS = 16, 5


def million_parameters() -> ArchSpec:
    """Return five blocks of softmax attention and an MLP with 1.05 million parameters, for 64 tokens."""
    mixer = plain_attention(8, 1, 16)
    ffn = OpSpec.of("mlp", d_ff=512, activation=OpSpec("gelu"))
    return ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=256, max_len=64),
        d_model=128,
        blocks=(BlockSpec(mixer, ffn, OpSpec("layernorm")),) * 5,
        stages=(StageSpec(5, 128),),
        head=OpSpec.of("lm_head", vocab_size=256),
        final_norm=OpSpec("layernorm"),
    )


def run() -> list[Row]:
    arch = million_parameters()
    return compare(arch, random_batch(arch, BATCH_SIZE, seed=0))


def compare(arch: ArchSpec, batch: Batch) -> list[Row]:
    assert set(NAMES) <= set(proxies())
    network = Subject(arch, batch, seed=0).model

    def subject() -> Subject:
        made = Subject(arch, batch, seed=0)
        made.model = network
        return made

    def together() -> None:
        score(NAMES, arch, batch, seed=0)

    def own_passes() -> None:
        for name in NAMES:
            score_subject([name], subject())

    def from_scratch() -> None:
        for name in NAMES:
            score([name], arch, batch, seed=0)

    together()
    runs = [[seconds(f) for f in (together, own_passes, from_scratch)] for _ in range(REPEATS)]
    shared, own, scratch = zip(*runs, strict=True)
    processor = [seconds(together, time.process_time) for _ in range(REPEATS)]
    about = f"{cost(arch, Workload()).parameters / 1e6:.2f} M parameters"
    return [
        row(f"20 proxies together, {about}", shared, "s", aim="1.5"),
        row("the same, processor time of all threads", processor, "s"),
        row("the same, each with its own passes", own, "s"),
        row("the same, each from scratch", scratch, "s"),
        row(
            "together against own passes", [b / a for a, b in zip(shared, own, strict=True)], "times", aim="4"
        ),
        row("together against from scratch", [b / a for a, b in zip(shared, scratch, strict=True)], "times"),
    ]


def seconds(run: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def row(name: str, values: tuple[float, ...] | list[float], unit: str, aim: str = "") -> Row:
    return Row(name, float(np.median(values)), min(values), max(values), unit, aim)
