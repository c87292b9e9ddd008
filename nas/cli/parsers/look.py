"""Options of the commands that only look."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_study, command, picture


def add(commands: Commands) -> None:
    studies = command(
        commands,
        "studies",
        "look:studies",
        "Which studies there are; `studies show STUDY`: how it went; `studies compare A B`: which went better.",
    )
    studies.add_argument(
        "words",
        nargs="*",
        metavar="ACTION STUDY",
        help="list, as without an action; show STUDY, or its name alone: hypervolume over time, the knee, which "
        "decisions matter; compare A B: two studies side by side, in the objectives that both have; rename OLD NEW; "
        "delete STUDY, with its trials",
    )
    front = command(commands, "front", "look:front", "The networks of a study that no other beats.")
    add_study(front)
    front.add_argument("--picture", type=picture, metavar="PNG", help="also draw the front")
    ops = command(
        commands,
        "ops",
        "look:operators",
        "Which operators there are; `ops NAME` shows one, `ops check NAME` proves it.",
        db=False,
    )
    ops.add_argument(
        "words",
        nargs="*",
        metavar="ACTION NAME",
        help="list, as without an action; show NAME, or its name alone: its settings; check NAME: run every contract "
        "on an operator of this project or of an installed package",
    )
    ops.add_argument("--slot", help="only those for one place: mixer, ffn, norm, ...")
    ops.add_argument(
        "--work",
        action="store_true",
        help="with NAME: also what one call does at a small width: FLOPs, other numbers, bytes, calls, and how many "
        "wait for each other",
    )
    ops.add_argument("--catalogue", action="store_true", help="published designs, and what answers each")
    spaces = command(
        commands,
        "spaces",
        "look:spaces",
        "Which spaces and published designs there are; `spaces check FILE` or `spaces FILE` examines one.",
        db=False,
    )
    spaces.add_argument(
        "words",
        nargs="*",
        metavar="ACTION SPACE",
        help="list, as without an action; check SPACE, or a built-in space, a published design or a TOML file alone: "
        "size, valid share, costs, published designs in it, estimated time",
    )
