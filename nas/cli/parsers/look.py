"""Options of the read-only commands."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_study, command, picture


def add(commands: Commands) -> None:
    studies = command(
        commands,
        "studies",
        "look:studies",
        "List studies; `studies show STUDY` summarizes one, `studies compare A B` compares two.",
    )
    studies.add_argument(
        "words",
        nargs="*",
        metavar="ACTION STUDY",
        help="list, the default; show STUDY, or STUDY alone: hypervolume over time, the knee, importance of "
        "decisions; compare A B: two studies side by side, in the objectives that both have; rename OLD NEW; "
        "delete STUDY and its trials",
    )
    front = command(commands, "front", "look:front", "Show the Pareto front of a study.")
    add_study(front)
    front.add_argument("--picture", type=picture, metavar="PNG", help="also draw the front")
    ops = command(
        commands,
        "ops",
        "look:operators",
        "List operators; `ops NAME` shows one, `ops check NAME` checks its contracts.",
        db=False,
    )
    ops.add_argument(
        "words",
        nargs="*",
        metavar="ACTION NAME",
        help="list, the default; show NAME, or NAME alone: the operator's settings; check NAME: run every contract "
        "check on an operator of this project or of an installed package",
    )
    ops.add_argument("--slot", help="only operators for one slot: mixer, ffn, norm, ...")
    ops.add_argument(
        "--work",
        action="store_true",
        help="with NAME: also the work of one call at a small width: FLOPs, other operations, bytes, kernel calls, and "
        "how many of them must run one after the other",
    )
    ops.add_argument(
        "--catalogue",
        action="store_true",
        help="list published designs and the operators that implement them",
    )
    spaces = command(
        commands,
        "spaces",
        "look:spaces",
        "List spaces and published designs; `spaces check SPACE` or `spaces SPACE` examines one.",
        db=False,
    )
    spaces.add_argument(
        "words",
        nargs="*",
        metavar="ACTION SPACE",
        help="list, the default; check SPACE, or SPACE alone (a built-in space, a published design, a TOML file or the "
        "folder of an imported model): size, valid share, costs, published designs in it, estimated time",
    )
