"""Options of `nas serve`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "serve",
        "serve:serve",
        "Serve the HTTP API and the web page for the studies of a database; prints an address with a token.",
    )
    c.set_defaults(handler="nas.service.main:serve")
    c.add_argument("--host", help="address to listen on; default 127.0.0.1")
    c.add_argument("--port", type=count(0, 65535), help="port to listen on, 0 for a free one; default 8000")
    c.add_argument("--socket", metavar="PATH", help="instead of a port, a Unix socket that only you may open")
    c.add_argument(
        "--no-token",
        nargs="?",
        const="",
        metavar="everyone-is-admin",
        help="require no token: everyone who reaches the server is an admin; with --host the value is required",
    )
    c.add_argument(
        "--workers",
        type=count(0, MOST_WORKERS),
        default=0,
        help="also start a `nas worker` with this number of trials in parallel; default none",
    )
