"""Options of `nas train`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_STEPS, MOST_WORKERS, Commands, add_kernels, add_study, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "train",
        "train:train",
        "Which network of the front is best when each is trained by itself? Those that fall behind are stopped.",
    )
    add_study(c)
    c.add_argument(
        "--networks",
        type=count(1, 100_000),
        default=8,
        help="how many of the front, evenly spread; default %(default)s",
    )
    c.add_argument(
        "--steps",
        type=count(1, MOST_STEPS),
        default=None,
        help="training steps; default the recipe's [alone]",
    )
    c.add_argument(
        "--workers",
        type=count(0, MOST_WORKERS),
        default=0,
        help="trainings at a time; default one for each core",
    )
    c.add_argument(
        "--address",
        default="",
        metavar="HOST:PORT",
        help="a Ray cluster, whose nodes share NAS_HOME; default this machine",
    )
    add_kernels(c, default="")
    c.add_argument("--out", default="", metavar="DIR", help="write the best as a folder that runs")
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
