"""`nas serve`: the server process, and the worker that may be started beside it."""

from __future__ import annotations

import argparse
import ipaddress
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from nas.api import default_db
from nas.errors import UsageError
from nas.workers.tether import Child
from studies import tokens
from studies.database import name_of
from studies.store import Store

RESTART_SECONDS = 5.0


def serve(options: argparse.Namespace) -> int:
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}: give a number from 1 to 65535, or 0 for a free one")
    if options.workers < 0:
        raise UsageError(f"--workers {options.workers}: give 0 for none, or how many trials at a time")
    try:
        import uvicorn

        from nas.service.app import create_app
    except ModuleNotFoundError as error:
        raise UsageError(
            f"nas serve needs the package {error.name}: pip install 'efficient-transformer-nas[service]'"
        ) from None
    url = options.db or default_db()
    app = create_app(url)
    _say_where_tokens_are_missing(app.state.store, options.host)
    config = uvicorn.Config(
        app,
        options.host,
        options.port,
        log_level="warning",
        proxy_headers=False,  # what a proxy adds is judged in nas.service.access
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,  # streams never end by themselves
        server_header=False,
    )
    listening = config.bind_socket()
    listening.listen(config.backlog)  # so that who reads the next line can connect
    host = f"[{options.host}]" if ":" in options.host else options.host
    sys.stderr.write(
        f"serving {name_of(app.state.store.engine)} at http://{host}:{listening.getsockname()[1]}\n"
    )
    sys.stderr.flush()
    with _worker(url, options.workers):
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _say_where_tokens_are_missing(store: Store, host: str) -> None:
    if not is_loopback(host) and not tokens.tokens(store):
        sys.stderr.write(
            "there is no token yet, so only this machine gets in: nas token create NAME --scope run\n"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _worker(url: str, count: int) -> Iterator[None]:
    """`nas worker` beside the server, started again where it dies, ended with the server however that ends."""
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
                sys.stderr.write(f"the worker ended with status {status}; it is started again\n")
                self._closed.wait(RESTART_SECONDS)
