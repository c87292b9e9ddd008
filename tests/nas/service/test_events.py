"""Streams: after any break, also of the server, a client has every trial exactly once."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from contextlib import closing
from typing import Any

import httpx
import pytest

from nas.service.views import Position
from studies.records import Outcome, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.service import studies
from tests.nas.service.conftest import Server, bearer


@pytest.mark.parametrize("seed", range(5))
def test_a_position_names_exactly_what_was_added_in_whatever_order(seed):
    order = list(range(40))
    random.Random(seed).shuffle(order)
    position, seen = Position(), set()
    for number in order:
        position.add([number])
        seen.add(number)
        again = Position.parse(str(position))
        assert [n for n in range(45) if again.lacks(n)] == [n for n in range(45) if n not in seen]
    assert str(position) == "40:0"


@pytest.mark.parametrize(
    "text", ["", "1", "a:0", "1:", "1:g", "-1:0", "1:0 ", "1" * 13 + ":0", "1:" + "f" * 20001]
)
def test_a_position_that_no_server_gave_out_is_refused(text, client):
    with pytest.raises(ValueError, match="no position"):
        Position.parse(text)
    if text:
        assert client.get("studies/toy/events", headers={"Last-Event-ID": text}).status_code == 422


def events(server: Server, name: str, last: str) -> Generator[tuple[str, str, dict[str, Any]], None, None]:
    """(event, id, data) until the server goes away."""
    address = f"{server.address}/api/v1/studies/{name}/events"
    headers = {"Last-Event-ID": last, **bearer(server.token)}
    with httpx.stream("GET", address, headers=headers, timeout=10) as response:
        assert response.status_code == 200
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
                fields = {}
            else:
                fields = {}


def test_a_stream_begins_where_the_client_is(url, serve):
    server = serve(url)
    for last, missing in (("0:0", range(60)), ("57:0", [57, 58, 59]), ("56:a", [56, 58])):
        found = events(server, "toy", last)
        event, position, data = next(found)
        assert event == "trials"
        assert [t["number"] for t in data["trials"]] == list(missing)
        assert position == "60:0"
        found.close()


def test_a_stream_tells_of_another_knee_once_networks_were_timed(tmp_path, serve):
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        studies.add_three(store)
        stream = events(serve(url), "toy", "0:0")
        _, position, data = next(stream)
        assert (position, data["knee"]) == ("3:0", 1)
        studies.time_second(store)
        told = next(data for event, _, data in stream if event == "trials")
        assert told == {"trials": [], "front": [0, 1, 2], "knee": told["knee"]}
        assert told["knee"] in (0, 2)
        stream.close()


def test_a_client_misses_nothing_and_gets_nothing_twice_when_the_server_is_killed(tmp_path, serve):
    """Trials go on finishing while it is away, in another order than that of their numbers."""
    url, count = f"sqlite:///{tmp_path}/nas.db", 40
    with closing(Store(url)) as store:
        study = store.create_study(toy.study("random", count))
        store.add_trials(study, [Trial(n, {"blocks": []}, f"a{n}") for n in range(count)], worker="w")
        order = [n ^ 1 for n in range(count)]

        def finish(some: list[int]) -> None:
            for number in some:
                values = {"loss": float(number), "cost": float(-number)}
                store.finish_trials(study, [Outcome(number, "complete", values)])

        server = serve(url)
        got: list[int] = []
        last = "0:0"
        finish(order[:9])
        for upto in (9, 25, count):
            stream = events(server, "toy", last)
            finish(order[len(got) : upto] if upto == count else [])
            while len(got) < upto:
                event, position, data = next(stream)
                if event == "trials":
                    got += [t["number"] for t in data["trials"]]
                    last = position
            if upto < count:
                server.kill()
                with pytest.raises(httpx.TransportError):
                    list(stream)
                finish(order[9:25] if upto == 9 else [])
                server = serve(url, server.port)
            assert sorted(got) == sorted(order[:upto])
