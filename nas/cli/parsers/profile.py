"""Options of `nas profile`, and those of a workload that other commands take, too."""

from __future__ import annotations

import argparse

from nas.cli.parsers.base import MOST_WORKERS, Commands, add_kernels, amount, command, count

MIN_NETWORKS = 4  # of predictors.lookup, which is not loaded to read options
MOST_NETWORKS = 10_000
MOST_TOKENS = 10_000_000


def add(commands: Commands) -> None:
    c = command(
        commands,
        "profile",
        "profile:profile",
        "Measure this device for a space; with --samples, adapt the profile of another.",
        db=False,
    )
    c.add_argument("--space", default="tiny-lm", help="a built-in space or a TOML file; default tiny-lm")
    c.add_argument(
        "--samples",
        type=count(MIN_NETWORKS, MOST_NETWORKS),
        default=None,
        metavar="K",
        help="adapt a known profile with K networks",
    )
    c.add_argument(
        "--networks",
        type=count(MIN_NETWORKS, MOST_NETWORKS),
        default=60,
        help="networks that the prediction is fitted to",
    )
    c.add_argument(
        "--held-out",
        type=count(MIN_NETWORKS, MOST_NETWORKS),
        default=30,
        metavar="N",
        help="others that its error is stated on",
    )
    c.add_argument(
        "--seconds",
        type=amount(above=0, most=1e6),
        default=25.0,
        help="time for operator settings; the rest is interpolated",
    )
    add_workload(c)
    add_kernels(c)


def add_workload(c: argparse.ArgumentParser) -> None:
    c.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="what is timed; default cpu")
    c.add_argument(
        "--runtime",
        default="auto",
        choices=["auto", "eager", "onnxruntime"],
        help="what networks run in; default auto: onnxruntime for encoders and images if it is installed, else eager",
    )
    c.add_argument("--threads", type=count(1, MOST_WORKERS), default=1, help="CPU threads; default 1")
    c.add_argument(
        "--phase",
        default="forward",
        choices=["forward", "prefill", "decode", "train"],
        help="forward: whole sequences; prefill: a prompt; decode: one token; train: a step; default forward",
    )
    c.add_argument(
        "--batch-size", type=count(1, MOST_TOKENS), default=1, help="sequences at a time; default 1"
    )
    c.add_argument(
        "--seq-len", type=count(1, MOST_TOKENS), default=None, help="tokens; default what the space allows"
    )
    c.add_argument(
        "--context-len", type=count(0, MOST_TOKENS), default=0, help="tokens before the one that is decoded"
    )
    c.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="numbers that it computes with; default float32",
    )
