"""Who gets in, and what does not get through."""

from __future__ import annotations

import time
from contextlib import closing
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from nas.service import access
from nas.service.access import Rate
from nas.service.app import create_app
from nas.service.gate import MAX_BODY_BYTES
from studies import tokens
from studies.records import Artifact
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.service.conftest import LOCAL, REMOTE, TOKEN, UNLIMITED, admin, bearer, made_app

NASTY = [
    "'; DROP TABLE nas_studies; --",
    '<script>alert("x")</script>',
    "<img src=x onerror=alert(1)>",
    "50 % off",
    "ü ∞",
]
TRAVERSALS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "....//etc/passwd",
]


@pytest.fixture(scope="module")
def made(url):
    """A token of each scope, and one that has expired."""
    with closing(Store(url)) as store:
        found = {scope: tokens.create(store, scope, scope, 600) for scope in tokens.SCOPES}
        found["expired"] = tokens.create(store, "expired", "admin", -1)
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "203.0.113.7"])
@pytest.mark.parametrize(
    "headers", [{}, {"Host": "localhost"}, {"X-Forwarded-For": "127.0.0.1"}, bearer("nas_no")]
)
def test_nothing_but_the_files_of_the_page_is_given_without_a_token(app, address, headers):
    """Whatever the address, also one that is not there, in a way that is not known, or asked for wrongly."""
    stranger = TestClient(app, client=(address, 50000), base_url="http://127.0.0.1:8000")
    known = [(m, p) for p, ways in app.openapi()["paths"].items() for m in ways]
    assert len(known) > 20
    other = [
        ("GET", "/api"),
        ("GET", "/nowhere"),
        ("POST", "/"),
        ("OPTIONS", "/api/v1/studies"),
        ("PUT", "/app.js"),
    ]
    other += [
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/api/v1/studies/toy/trials?limit=x"),
    ]
    other += [
        ("GET", f"/api/v1/studies?token={TOKEN}"),
        ("GET", "//api/v1/studies"),
        ("GET", "/vendor/../api/v1/about"),
    ]
    for method, path in [*known, *other]:
        answer = stranger.request(
            method, path.format(name="toy", number=0, kind="k", key="k"), headers=headers
        )
        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/app.js", "/vendor/echarts.min.js"):
        answer = stranger.get(path)
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert TOKEN not in answer.text


def test_the_token_of_a_start_is_that_of_an_admin_and_of_no_other_start(url, client, stranger):
    assert client.get("about").json()["scope"] == "admin"
    other = create_app(url, UNLIMITED, token="nas_of_another_start")
    address = "http://127.0.0.1/api/v1/about"
    assert TestClient(other).get(address, headers=bearer(TOKEN)).status_code == 401
    for none in ("", "nas_"):  # an empty one is none
        empty = TestClient(create_app(url, UNLIMITED, token=""))
        assert empty.get(address, headers=bearer(none)).status_code == 401


@pytest.mark.parametrize(
    ("token", "method", "address", "status"),
    [
        ("read", "GET", "studies", 200),
        ("read", "PATCH", "studies/toy", 403),
        ("read", "POST", "studies", 403),
        ("read", "POST", "studies/toy/extractions", 403),
        ("run", "PATCH", "studies/toy", 200),
        ("admin", "PATCH", "studies/toy", 200),
        ("expired", "GET", "studies", 401),
    ],
)
def test_a_token_gives_its_scope_and_no_more(stranger, made, token, method, address, status):
    body: dict[str, int] | None = None if method == "GET" else {}
    answer = stranger.request(method, address, json=body, headers=bearer(made[token]))
    assert answer.status_code == status, answer.text


def test_an_unknown_a_revoked_and_a_mistyped_token_are_refused(url, stranger, monkeypatch):
    monkeypatch.setattr(access, "KEPT_SECONDS", 0.0)
    with closing(Store(url)) as store:
        token = tokens.create(store, "short-lived", "read")
        assert stranger.get("studies", headers=bearer(token)).status_code == 200
        tokens.revoke(store, "short-lived")
    for wrong in (token, token[:-1], "nas_", "' OR 1=1 --"):
        assert stranger.get("studies", headers=bearer(wrong)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example:8000"}, 401),
        ({"Host": "127.0.0.1.evil.example"}, 401),
        ({"Host": "[::1"}, 401),
    ],
)
def test_a_server_that_asks_for_no_token_still_obeys_no_page_of_another_site(url, headers, status):
    """By its own origin, or by a name of its own that it has pointed here."""
    open_to_all = TestClient(
        create_app(url, UNLIMITED, is_open=True), client=LOCAL, base_url="http://127.0.0.1:8000"
    )
    assert open_to_all.get("/api/v1/studies", headers=headers).status_code == status


def test_only_hashes_of_tokens_are_stored(url, made):
    path = url.removeprefix("sqlite:///")
    for name in (path, f"{path}-wal"):
        with open(name, "rb") as file:
            content = file.read()
        assert all(token.encode() not in content for token in made.values())


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_request_that_is_too_large_is_refused(client, is_chunked):
    content = b"x" * (MAX_BODY_BYTES + 1)
    answer = client.post("studies", content=iter([content]) if is_chunked else content)
    assert answer.status_code == 413


def test_a_client_that_asks_too_often_is_told_when_to_come_back(url, made):
    """A client is a token, wherever it asks from: behind a proxy all have one address."""
    hurried = admin(made_app(url, Rate(per_second=0.5, burst=3)))
    assert [hurried.get("about").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert hurried.get("about").headers["retry-after"] == "2"
    hurried.headers.update(bearer(made["read"]))
    assert hurried.get("about").status_code == 200


def test_a_bucket_fills_again(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    rate = Rate(per_second=2.0, burst=1)
    assert rate.seconds_to_wait("a") == 0.0
    assert rate.seconds_to_wait("a") == 1.0
    clock[0] += 0.5
    assert rate.seconds_to_wait("a") == 0.0


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_name_leads_to_a_file(client, name):
    addresses = [
        f"artifacts/extraction/{name}/download",
        f"artifacts/{name}/x/card",
        f"studies/{name}",
        f"spaces/{name}",
    ]
    addresses += [f"http://127.0.0.1:8000/{name}", f"http://127.0.0.1:8000/vendor/{name}"]
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 404, (address, answer.status_code)
        assert "root:" not in answer.text


def test_an_artifact_that_is_no_extraction_stays_where_it_is(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    app = made_app(f"sqlite:///{tmp_path}/nas.db")
    with admin(app) as client:
        store = app.state.store
        store.add_artifact(Artifact("supernet", "abc", str(secret), 6, "now"))
        store.add_artifact(Artifact("extraction", "gone", str(tmp_path / "gone.zip"), 6, "now"))
        assert "path" not in client.get("artifacts").json()[0]
        assert client.get("artifacts/supernet/abc/download").status_code == 409
        assert client.get("artifacts/extraction/gone/download").status_code == 410


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_data_whatever_it_looks_like(tmp_path, name):
    app = made_app(f"sqlite:///{tmp_path}/nas.db")
    with admin(app) as client:
        name = name.replace("/", " ")  # which would end it in an address
        store = app.state.store
        store.create_study(toy.study("random", 1, name=name))
        assert [s["name"] for s in client.get("studies").json()] == [name]
        assert client.get(f"studies/{quote(name, safe='')}").json()["name"] == name
        assert client.get("studies/x' OR '1'='1").status_code == 404


def test_who_tries_tokens_is_one_client_whatever_it_claims_and_disturbs_nobody(url, made, monkeypatch):
    monkeypatch.setattr(access, "MAX_KEPT", 1)
    app = made_app(url, Rate(per_second=0.001, burst=4))
    client = TestClient(app, client=REMOTE, base_url="http://lab.example/api/v1/")
    assert client.get("about", headers=bearer(made["read"])).status_code == 200
    found = [
        client.get("about", headers=bearer(f"nas_{n}") | {"X-Forwarded-For": f"1.1.1.{n}"}) for n in range(5)
    ]
    assert [answer.status_code for answer in found] == [401, 401, 401, 429, 429]
    assert client.get("about").status_code == 401
    for known in (made["read"], TOKEN):
        assert client.get("about", headers=bearer(known)).status_code == 200
