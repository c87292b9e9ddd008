"""Options of the commands that only look."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_study, command


def add(commands: Commands) -> None:
    studies = command(
        commands,
        "studies",
        "look:studies",
        "Which studies there are; `studies show STUDY`: how it went; `studies compare A B`: which went better.",
    )
    studies.add_argument(
        "action",
        nargs="?",
        choices=["show", "compare"],
        help="show: hypervolume over time, the knee, which decisions matter; compare: two studies side by side",
    )
    studies.add_argument("names", nargs="*", metavar="STUDY", help="the study to show, or the two to compare")
    front = command(commands, "front", "look:front", "The networks of a study that no other beats.")
    add_study(front)
    front.add_argument("--picture", default=None, metavar="PNG", help="also draw the front")
    ops = command(
        commands,
        "ops",
        "look:operators",
        "Which operators there are; `ops check NAME` proves one of them.",
        db=False,
    )
    ops.add_argument("action", nargs="?", choices=["check"], help="check: run every contract on an operator")
    ops.add_argument("name", nargs="?", help="an operator of this project or of an installed package")
    ops.add_argument("--slot", default=None, help="only those for one place: mixer, ffn, norm, ...")
    ops.add_argument("--catalogue", action="store_true", help="published designs, and what answers each")
    spaces = command(
        commands,
        "spaces",
        "look:spaces",
        "Which spaces there are; `spaces check FILE` examines one.",
        db=False,
    )
    spaces.add_argument(
        "action", nargs="?", choices=["check"], help="check: size, valid share, costs, estimated time"
    )
    spaces.add_argument("file", nargs="?", help="a built-in space or a TOML file")
