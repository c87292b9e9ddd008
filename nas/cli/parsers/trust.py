"""Options of `nas trust`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_STEPS, Commands, add_study, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "trust",
        "trust:trust",
        "Can the losses of a search be trusted? Inherited against trained alone.",
    )
    add_study(c)
    # fewer than 5 have no rank correlation worth an interval
    c.add_argument("--networks", type=count(5, 100_000), default=12, help="how many networks to train alone")
    c.add_argument("--steps", type=count(10, MOST_STEPS), default=300, help="training steps of each")
    c.add_argument(
        "--table",
        default="",
        metavar="DIR",
        help="use the networks of this folder of `nas truth build`, train none",
    )
