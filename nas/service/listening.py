"""The server's socket: an address and port, or a Unix socket that only its owner may open."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nas.errors import UsageError

BACKLOG = 2048
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # local addresses of a server that listens on all interfaces


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Place:
    """A host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None


@contextmanager
def listening(place: Place) -> Iterator[tuple[socket.socket, str]]:
    """A listening socket and its address for users. Raises UsageError if it can't be made."""
    path = place.path
    with closing(_on_port(place.host, place.port) if path is None else _on_path(path)) as made:
        made.listen(BACKLOG)
        try:
            yield made, _address(place.host, made) if path is None else f"unix:{path}"
        finally:
            if path is not None:
                Path(path).unlink(missing_ok=True)


def _address(host: str, made: socket.socket) -> str:
    shown = ANYWHERE.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{made.getsockname()[1]}"


def _on_port(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: no address of this machine ({error.strerror})") from None
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(where)
    except OSError as error:
        made.close()
        raise UsageError(
            f"--host {host} --port {port}: can't listen there ({error.strerror}); give an address of this machine and "
            f"a port that is not in use, or --port 0 for a free one"
        ) from None
    return made


def _on_path(path: str) -> socket.socket:
    """A Unix socket at `path`; replaces only a socket that an earlier server left behind."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_behind(path):
            os.unlink(path)
        before = os.umask(0o177)  # so that others can't open it at any moment
        try:
            made.bind(path)
        finally:
            os.umask(before)
    except OSError as error:
        made.close()
        raise UsageError(
            f"--socket {path}: can't be made ({error.strerror or error}); give a path that does not exist, in a folder "
            f"that can be written"
        ) from None
    return made


def _is_left_behind(path: str) -> bool:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    return True
    return False
