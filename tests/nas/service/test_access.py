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
from nas.service.limits import MAX_BODY_BYTES
from studies import tokens
from studies.records import Artifact
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.service.conftest import LOCAL, REMOTE

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


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_address_of_the_api_needs_a_token_from_elsewhere(app, stranger):
    addresses = [(m, p) for p, ways in app.openapi()["paths"].items() for m in ways]
    assert len(addresses) > 20
    for method, path in addresses:
        concrete = path.format(name="toy", number=0, kind="k", key="k")
        answer = stranger.request(method, f"http://lab.example{concrete}")
        assert answer.status_code == 401, (method, path, answer.text)
    assert stranger.get("openapi.json").status_code == 401


def test_the_page_itself_holds_nothing_and_opens_for_everybody(stranger):
    answer = stranger.get("http://lab.example/")
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]


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


def test_a_wrong_token_is_refused_on_this_machine_too(client):
    assert client.get("studies", headers=bearer("nas_wrong")).status_code == 401


def test_a_forwarded_request_is_not_from_this_machine(client):
    assert client.get("studies").status_code == 200
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert client.get("studies", headers={header: "127.0.0.1"}).status_code == 401


def test_a_page_of_another_site_can_not_use_this_machine(client):
    """By its own origin, or by a name of its own that it has pointed here."""
    assert client.post("studies", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.get("studies", headers={"Host": "evil.example:8000"}).status_code == 401
    assert client.get("studies", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200


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


def test_a_client_that_asks_too_often_is_told_when_to_come_back(url):
    app = create_app(url, Rate(per_second=0.5, burst=3))
    hurried = TestClient(app, client=LOCAL, base_url="http://127.0.0.1/api/v1/")
    assert [hurried.get("about").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert hurried.get("about").headers["retry-after"] == "2"
    other = TestClient(app, client=("127.0.0.2", 1), base_url="http://127.0.0.1/api/v1/")
    assert other.get("about").status_code == 200


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
    app = create_app(f"sqlite:///{tmp_path}/nas.db")
    with TestClient(app, client=LOCAL, base_url="http://127.0.0.1/api/v1/") as client:
        store = app.state.store
        store.add_artifact(Artifact("supernet", "abc", str(secret), 6, "now"))
        store.add_artifact(Artifact("extraction", "gone", str(tmp_path / "gone.zip"), 6, "now"))
        assert "path" not in client.get("artifacts").json()[0]
        assert client.get("artifacts/supernet/abc/download").status_code == 409
        assert client.get("artifacts/extraction/gone/download").status_code == 410


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_data_whatever_it_looks_like(tmp_path, name):
    app = create_app(f"sqlite:///{tmp_path}/nas.db")
    with TestClient(app, client=LOCAL, base_url="http://127.0.0.1/api/v1/") as client:
        name = name.replace("/", " ")  # which would end it in an address
        store = app.state.store
        store.create_study(toy.study("random", 1, name=name))
        assert [s["name"] for s in client.get("studies").json()] == [name]
        assert client.get(f"studies/{quote(name, safe='')}").json()["name"] == name
        assert client.get("studies/x' OR '1'='1").status_code == 404


def test_a_stranger_is_one_client_of_the_rate_whatever_it_claims(url):
    app = create_app(url, Rate(per_second=0.001, burst=1))
    stranger = TestClient(app, client=REMOTE, base_url="http://lab.example/api/v1/")
    assert stranger.get("about", headers={"X-Forwarded-For": "1.1.1.1"}).status_code == 401
    assert stranger.get("about", headers={"X-Forwarded-For": "2.2.2.2"}).status_code == 429
