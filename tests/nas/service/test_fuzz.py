"""Requests made up from the OpenAPI document: whatever is sent, the server answers for it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.nas.service import studies
from tests.nas.service.conftest import TOKEN, bearer, made_app

schemathesis = pytest.importorskip("schemathesis")


def check(url: str, count: int) -> Counter[int]:
    """Sends `count` cases, spread over all operations; returns how often each status was the answer."""
    app = made_app(url)
    app.state.catalogue.spaces()  # takes longer than schemathesis waits for an answer
    app.state.catalogue.devices()
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    # an open stream never ends by itself, and extracting would train nothing here
    operations = [o.ok() for o in schema.get_all_operations() if not o.ok().path.endswith("/events")]
    assert len(operations) > 18
    statuses: Counter[int] = Counter()
    for operation in operations:
        each = max(1, -(-count // len(operations)))

        @seed(0)
        @settings(
            max_examples=each,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy(), name=st.sampled_from(["toy", "", "toy "]))
        def send(case, name):
            if case.path_parameters and "name" in case.path_parameters and name:
                case.path_parameters["name"] = name
            answer = case.call(headers=bearer(TOKEN))
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (case.method, case.formatted_path, answer.text)

        send()
    return statuses


@pytest.fixture
def url(tmp_path):
    made = f"sqlite:///{tmp_path}/nas.db"
    studies.add(made, count=20)
    return made


def test_a_hundred_made_up_requests_get_no_server_error(url):
    statuses = check(url, 100)
    assert statuses.total() >= 100
    assert statuses[200] > 20, statuses
    assert statuses[401] == 0, statuses


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_made_up_requests_get_no_server_error(url):
    assert check(url, 500).total() >= 500
