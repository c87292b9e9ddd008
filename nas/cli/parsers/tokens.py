"""Options of `nas token`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(commands, "token", "tokens:token", "Who may use `nas serve` besides whoever started it.")
    c.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["create", "list", "revoke"],
        help="what to do with tokens; default list",
    )
    c.add_argument("name", nargs="?", default="", help="whose token it is")
    c.add_argument(
        "--scope",
        default="read",
        help="read: look and download; run: also start, pause and extract; admin: everything; default read",
    )
    c.add_argument("--expires", metavar="720h", help="default: when it is revoked")
