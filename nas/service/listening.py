"""Where the server listens: an address and port, or a Unix socket that only its owner may open."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from nas.errors import UsageError

BACKLOG = 2048
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # who listens everywhere is found here, too


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def listening(host: str, port: int, path: str) -> Iterator[tuple[socket.socket, str]]:
    """The socket and how it is called; it takes connections already. Raises UsageError where it can't be had."""
    with closing(_on_path(path) if path else _on_port(host, port)) as made:
        made.listen(BACKLOG)
        try:
            yield made, f"unix:{path}" if path else _address(host, made)
        finally:
            if path:
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
    """What an earlier server left behind is replaced, nothing else."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_behind(path):
            os.unlink(path)
        before = os.umask(0o177)  # so that there is no moment in which others may open it
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
