"""Options of `nas serve`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(
        commands, "serve", "serve:serve", "The HTTP API and the live page over the studies of a database."
    )
    c.set_defaults(handler="nas.service.main:serve")
    c.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; who is not on this machine needs a token of `nas token create`",
    )
    c.add_argument("--port", type=int, default=8000, help="0 for a free one; default 8000")
    c.add_argument(
        "--workers",
        type=int,
        default=0,
        help="also start a `nas worker` that evaluates so many trials at a time",
    )
