"""Options of `nas trust`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_study, command


def add(commands: Commands) -> None:
    c = command(
        commands,
        "trust",
        "trust:trust",
        "Can the losses of a search be trusted? Inherited against trained alone.",
    )
    add_study(c)
    c.add_argument("--networks", type=int, default=12, help="how many networks to train alone")
    c.add_argument("--steps", type=int, default=300, help="training steps of each")
    c.add_argument(
        "--table",
        default="",
        metavar="DIR",
        help="use the networks of this folder of `nas truth build`, train none",
    )
