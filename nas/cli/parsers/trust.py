"""Options of `nas trust`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_STEPS, Commands, add_study, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "trust",
        "trust:trust",
        "Check whether a search's losses rank networks as training each network alone does.",
    )
    add_study(c)
    # a rank correlation of fewer than 5 networks has no useful confidence interval
    c.add_argument(
        "--networks", type=count(5, 100_000), default=12, help="networks to train alone; default 12"
    )
    c.add_argument("--steps", type=count(10, MOST_STEPS), default=300, help="steps per network; default 300")
    c.add_argument(
        "--table",
        default="",
        metavar="DIR",
        help="use the trained networks of this folder of `nas truth build` instead of training",
    )
