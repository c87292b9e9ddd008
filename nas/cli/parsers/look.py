"""Options of the commands that only look."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    command(commands, "studies", "look:studies", "Which studies there are, and how far they are.")
    front = command(commands, "front", "look:front", "The networks of a study that no other beats.")
    front.add_argument("study")
    front.add_argument("--picture", default=None, metavar="PNG", help="also draw the front")
    ops = command(commands, "ops", "look:operators", "Which operators there are.", db=False)
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
