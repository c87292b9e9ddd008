"""Options of `nas token`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(
        commands,
        "token",
        "tokens:token",
        "Create, list and revoke the tokens that give others access to `nas serve`.",
    )
    c.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["create", "list", "revoke"],
        help="what to do with tokens; default list",
    )
    c.add_argument("name", nargs="?", default="", help="name of the token, such as that of its user")
    c.add_argument(
        "--scope",
        default="read",
        help="read: view and download; run: also start, pause and extract; admin: everything; default read",
    )
    c.add_argument("--expires", metavar="720h", help="lifetime of the token; default until it is revoked")
