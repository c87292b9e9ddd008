"""Options of `nas serve`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "serve",
        "serve:serve",
        "The HTTP API and the live page over the studies of a database, at an address with a token of its own.",
    )
    c.set_defaults(handler="nas.service.main:serve")
    c.add_argument("--host", help="address to listen on; default 127.0.0.1")
    c.add_argument("--port", type=count(0, 65535), help="0 for a free one; default 8000")
    c.add_argument(
        "--socket", metavar="PATH", help="instead of a port, a Unix socket that you alone may open"
    )
    c.add_argument(
        "--no-token",
        nargs="?",
        const="",
        metavar="everyone-is-admin",
        help="ask nobody for a token; whoever reaches the server is then an admin, which for --host has to be said",
    )
    c.add_argument(
        "--workers",
        type=count(0, MOST_WORKERS),
        default=0,
        help="also start a `nas worker` that evaluates this number of trials at a time",
    )
