"""Options of `nas search` and `nas resume`."""

from __future__ import annotations

import argparse

from nas.cli.parsers.base import (
    MOST_STEPS,
    MOST_TRIALS,
    MOST_WORKERS,
    Commands,
    add_kernels,
    add_study,
    amount,
    command,
    count,
    picture,
)
from nas.searchers.registry import SEARCHERS


def add(commands: Commands) -> None:
    _search(commands)
    _resume(commands)


def _search(commands: Commands) -> None:
    c = command(commands, "search", "search:search", "Search a space; every trial is kept in the database.")
    c.add_argument("--space", default=None, help="a built-in space or a TOML file")
    c.add_argument("--study", default="", help="name of the study; default the space's")
    c.add_argument("--trials", type=count(1, MOST_TRIALS), default=None, help="architectures to evaluate")
    c.add_argument(
        "--objectives",
        default=None,
        metavar="a,b",
        help="quantities to improve, first the most important; one may state its device and workload, as in "
        "latency@cpu:decode,b=1,ctx=4096",
    )
    c.add_argument(
        "--max", action="append", default=[], metavar="q=v", help="upper bound on a quantity; repeatable"
    )
    c.add_argument(
        "--min", action="append", default=[], metavar="q=v", help="lower bound on a quantity; repeatable"
    )
    c.add_argument(
        "--searcher", default=None, metavar="NAME", help="how to search, see below; default the recipe's"
    )
    c.add_argument(
        "--quality",
        default=None,
        help="how quality is judged: train (each network alone), supernet (inherited weights), proxy, or auto: train "
        "where the searcher decides how far each is trained, supernet elsewhere and for an imported model",
    )
    c.add_argument(
        "--ladder",
        default=None,
        metavar="a,b",
        help="with --searcher guided or halving: cheaper judgements that decide who gets that of --quality, cheapest "
        "first: proxy (halving only), supernet, and eighth, quarter, half of the training",
    )
    c.add_argument(
        "--gate-anyway",
        action="store_true",
        help="with --ladder proxy: let the proxy decide also where it is not known to rank networks better than size",
    )
    c.add_argument("--data", default=None, metavar="PATH", help="your own text file or folder")
    c.add_argument(
        "--model",
        default=None,
        metavar="DIR",
        help="a model brought in by `nas import`: its weights are the supernet, its space.toml the default space",
    )
    c.add_argument(
        "--recovery-steps",
        type=count(0, MOST_STEPS),
        default=None,
        metavar="N",
        help="with --model: train its sub-networks together for N steps before the search; default 0",
    )
    c.add_argument(
        "--device", default="cpu", help="what networks are trained, judged and timed on: cpu or cuda"
    )
    add_kernels(c)
    c.add_argument(
        "--target",
        default="",
        metavar="PROFILE",
        help="predict latency for another device: the folder that `nas profile` wrote there, or its name",
    )
    c.add_argument("--seed", type=count(), default=None, help="decides every architecture that is tried")
    c.add_argument(
        "--warm-start",
        default="",
        metavar="STUDY",
        help="with --searcher guided: learn from an earlier study on the same space with the same objectives",
    )
    c.add_argument("--recipe", default=None, metavar="TOML", help="all settings from a file")
    c.add_argument("--print-recipe", action="store_true", help="print the settings as a recipe file and stop")
    _running(c)
    width = max(map(len, SEARCHERS))
    c.formatter_class = argparse.RawDescriptionHelpFormatter
    c.epilog = "searchers:\n" + "\n".join(f"  {n:{width}}  {e.about}" for n, e in SEARCHERS.items())


def _resume(commands: Commands) -> None:
    c = command(commands, "resume", "search:resume", "Go on with a study as if it had never stopped.")
    add_study(c)
    c.add_argument("--trials", default="0", metavar="+N", help="evaluate N more than the study was to have")
    _running(c)


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--time", default=None, metavar="30m", help="stop after this long: 90s, 30m, 2h30m, 1d"
    )
    command.add_argument(
        "--runner",
        default="",
        help="local: this process; pool: several; ray: a Ray cluster; workers: whatever `nas worker` processes "
        "there are; default by the objectives",
    )
    command.add_argument(
        "--workers",
        type=count(0, MOST_WORKERS),
        default=0,
        help="processes of --runner pool or actors of --runner ray; default all there is room for",
    )
    command.add_argument(
        "--address",
        default="",
        metavar="HOST:PORT",
        help="the cluster of --runner ray; default a new one here",
    )
    command.add_argument(
        "--gpus-per-worker",
        type=amount(0, MOST_WORKERS),
        default=0.0,
        metavar="0.25",
        help="GPUs each actor of --runner ray needs",
    )
    command.add_argument(
        "--picture",
        type=picture,
        default=None,
        metavar="PNG",
        help='where to draw the front; default STUDY.png, "" for none',
    )
