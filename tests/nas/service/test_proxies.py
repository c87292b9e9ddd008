"""The service behind nginx and Caddy, configured as is shipped and with nothing but where to pass requests on."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

import nas
from nas.service.app import create_app
from tests.nas.service.conftest import Server, bearer

SHIPPED = files("nas").joinpath("service", "proxies")
BARE_NGINX = "location / { proxy_pass http://127.0.0.1:8000; }"
BARE_CADDY = "lab.example {\n\treverse_proxy 127.0.0.1:8000\n}\n"
NGINX = """
daemon off; pid nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """Until it takes connections; gives its address."""
    environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "said").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"no {name} here: apt-get install {name}")
    return found


def nginx(configuration: str, folder: Path, passed_to: int) -> AbstractContextManager[str]:
    port, command = free_port(), [program("nginx"), "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]
    server = configuration.replace("127.0.0.1:8000", f"127.0.0.1:{passed_to}")
    (folder / "nginx.conf").write_text(NGINX.format(port=port, server=server))
    return started(command, folder, port)


def caddy(configuration: str, folder: Path, passed_to: int) -> AbstractContextManager[str]:
    """As a site without TLS, which would need the name."""
    port, command = free_port(), [program("caddy"), "run", "--adapter", "caddyfile", "--config", "Caddyfile"]
    text = configuration.replace("127.0.0.1:8000", f"127.0.0.1:{passed_to}")
    text = text.replace("lab.example {", f"http://127.0.0.1:{port} {{")
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    return started(command, folder, port)


@pytest.fixture(scope="module")
def server(url: str) -> Iterator[Server]:
    with closing(Server(url)) as found:
        yield found


@pytest.mark.parametrize(
    ("proxy", "configuration"),
    [
        pytest.param(nginx, SHIPPED.joinpath("nginx.conf").read_text(encoding="utf-8"), id="nginx, shipped"),
        pytest.param(nginx, BARE_NGINX, id="nginx, bare"),
        pytest.param(caddy, SHIPPED.joinpath("Caddyfile").read_text(encoding="utf-8"), id="Caddy, shipped"),
        pytest.param(caddy, BARE_CADDY, id="Caddy, bare"),
    ],
)
def test_behind_a_proxy_nothing_is_given_without_a_token_and_everything_with_one(
    tmp_path: Path,
    url: str,
    server: Server,
    proxy: Callable[..., AbstractContextManager[str]],
    configuration: str,
) -> None:
    known = [(m, p) for p, ways in create_app(url).openapi()["paths"].items() for m in ways]
    assert len(known) > 20
    known += [
        ("get", "/api/v1/openapi.json"),
        ("get", "/nowhere"),
        ("options", "/api/v1/studies"),
        ("post", "/"),
    ]
    with proxy(configuration, tmp_path, server.port) as address, httpx.Client(base_url=address) as client:
        for method, path in known:
            concrete = path.format(name="toy", number=0, kind="k", key="k")
            for headers in ({}, {"Host": "127.0.0.1"}, {"X-Forwarded-For": "127.0.0.1"}, bearer("nas_no")):
                answer = client.request(method, concrete, headers=headers)
                assert answer.status_code == 401, (method, path, headers, answer.text)
        assert client.get("/").status_code == 200
        assert client.get("/vendor/echarts.min.js").headers["content-encoding"] == "gzip"
        with closing(nas.connect(address, server.token)) as lab:
            assert lab.read("toy").front
            with closing(lab._studies("toy")) as followed:
                assert next(followed)["name"] == "toy"  # while the stream goes on: nothing holds it back
