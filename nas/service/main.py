"""`nas serve`: the server process, and the worker that it may start.

Each start makes its own token, which is part of the printed address and valid until the process ends. The worker uses
the database directly, like every worker, and needs no token.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from nas.api import default_db
from nas.errors import UsageError
from nas.service.listening import Place, is_loopback, listening
from nas.workers.child import Child
from studies import tokens
from studies.database import name_of

EVERYONE = "everyone-is-admin"
LOOPBACK, PORT = "127.0.0.1", 8000
RESTART_SECONDS = 5.0


def serve(options: argparse.Namespace) -> int:
    """Serve until interrupted. Raises UsageError for an unusable address, and for unsafe uses of --no-token."""
    place = _place(options)
    if options.workers < 0:
        raise UsageError(f"--workers {options.workers}: give 0 for none, or a number of trials in parallel")
    if options.no_token is not None:
        _check_who_gets_in(place, options.no_token)
    try:
        import uvicorn

        from nas.service.app import create_app
        from nas.service.connections import Connection
    except ModuleNotFoundError as error:
        raise UsageError(
            f"nas serve needs the package {error.name}: pip install 'efficient-transformer-nas[service]'"
        ) from None
    url = options.db or default_db()
    is_open = options.no_token is not None
    own = "" if is_open else tokens.new()
    with listening(place) as (made, address):
        app = create_app(url, token=own, is_open=is_open)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="warning",
            proxy_headers=False,  # headers of a proxy can be forged
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,  # event streams do not end on their own
            server_header=False,
        )
        _say_where(name_of(app.state.store.engine), address, own)
        with _worker(url, options.workers):
            uvicorn.Server(config).run(sockets=[made])
    return 0


def _place(options: argparse.Namespace) -> Place:
    if options.socket is not None:
        for name in ("host", "port"):
            if (value := getattr(options, name)) is not None:
                raise UsageError(f"--{name} {value} and --socket {options.socket}: give a port or a socket")
        if not options.socket:
            raise UsageError("--socket '': give the path of a socket to be made")
        return Place(path=options.socket)
    port = PORT if options.port is None else options.port
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: give a number from 1 to 65535, or 0 for a free one")
    return Place(LOOPBACK if options.host is None else options.host, port)


def _check_who_gets_in(place: Place, said: str) -> None:
    """Raises UsageError if --no-token would make everybody who reaches a port an admin without saying so."""
    if said not in ("", EVERYONE):
        raise UsageError(f"--no-token {said}: give {EVERYONE}, or nothing with --socket PATH")
    if place.path is not None:
        return
    if not is_loopback(place.host):
        raise UsageError(
            f"--no-token with --host {place.host}: everybody in that network would be an admin; omit --no-token, "
            f"or listen on a Unix socket with --socket PATH"
        )
    if not said:
        raise UsageError(
            f"--no-token on port {place.port}: whoever reaches the port is then an admin, including other users of "
            f"this machine and, through a proxy, anybody; write --no-token {EVERYONE} if you want that, or listen on "
            f"a Unix socket with --socket PATH"
        )


def _say_where(database: str, address: str, token: str) -> None:
    """Print the server's address and the token of this start."""
    if not token:
        sys.stderr.write(
            f"no token is required: whoever reaches {address}, also through a proxy, is an admin\n"
        )
    place = f"{address}/?token={token}" if token and address.startswith("http") else address
    sys.stderr.write(f"serving {database} at {place}\n")
    if token and not address.startswith("http"):
        sys.stderr.write(f"the token of this start: {token}\n")
    sys.stderr.flush()


@contextmanager
def _worker(url: str, count: int) -> Iterator[None]:
    """Run `nas worker` as a child while the context is open, restarting it if it dies."""
    if not count:
        yield
        return
    with closing(_Keeper(url, count)):
        yield


class _Keeper:
    def __init__(self, url: str, count: int) -> None:
        self._arguments, self._environment = [str(count)], {"NAS_DB": url}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._closed.is_set():
            with closing(
                Child("nas.service.worker", self._arguments, self._environment, is_seen=True)
            ) as child:
                while child.poll() is None and not self._closed.wait(0.2):
                    pass
                status = child.poll()
            if status is not None:
                sys.stderr.write(f"the worker ended with status {status} and is restarted\n")
                self._closed.wait(RESTART_SECONDS)
