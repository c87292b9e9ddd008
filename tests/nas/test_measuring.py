"""Measuring waits for others, survives the death of its process, and ends with who asked for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nas.cli.profile import full_profile
from nas.machine import measuring
from nas.measuring import WAITING, MeasuringCrashed, MeasuringFailed, measure
from nas.request.schema import ProfileRequest
from nas.setup.preparation import Step, measure_profile
from searchspace.spec.workload import Workload
from tests.nas.measured import counted, fail, lasting
from tests.nas.training import toy


def ignore(done: int, total: int, text: str) -> None:
    pass


class GaveUp(Exception):
    """Of somebody who does not want to wait."""


def test_what_kills_its_process_is_gone_on_with_as_often_as_allowed(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    assert measure(partial(counted, tmp_path / "a", 2), "cpu", lambda *said: seen.append(said), 3) == 3
    assert [said for said in seen if said[2] == "counting"] == [(n, 3, "counting") for n in (1, 2, 3)]
    with pytest.raises(MeasuringCrashed, match="signal 9, 2 times"):
        measure(partial(counted, tmp_path / "b", 2), "cpu", ignore, 2)


def test_an_error_is_told_once_and_not_taken_for_a_crash() -> None:
    with pytest.raises(MeasuringFailed, match=r"^no such operator$"):
        measure(partial(fail, ValueError("no such operator")), "cpu", ignore)
    with pytest.raises(MeasuringFailed, match=r"^KeyError: 'operator'$"):
        measure(partial(fail, KeyError("operator")), "cpu", ignore)


def test_a_caller_that_gives_up_ends_the_process_and_frees_the_device(tmp_path: Path) -> None:
    def give_up(done: int, total: int, text: str) -> None:
        raise GaveUp

    with pytest.raises(GaveUp):
        measure(partial(lasting, tmp_path / "pid"), "cpu", give_up)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    with measuring("cpu"):
        pass


def of_a_profile(on_step: Callable[[Step], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.cli.profile.Display.on_step", lambda display, step: on_step(step))
    request = ProfileRequest(runtime="eager", networks=4)
    full_profile(request, toy.space(), Workload(seq_len=toy.CONTEXT), 1.0, quiet=True)


def of_a_search(on_step: Callable[[Step], None], monkeypatch: pytest.MonkeyPatch) -> None:
    measure_profile(toy.space(), Workload(seq_len=toy.CONTEXT), "cpu", on_step)


@pytest.mark.parametrize("who", [of_a_profile, of_a_search])
def test_a_profile_and_a_search_wait_for_each_other(
    who: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))

    def give_up(step: Step) -> None:
        assert step.text == WAITING
        raise GaveUp

    with measuring("cpu"), pytest.raises(GaveUp):
        who(give_up, monkeypatch)
    assert not list(tmp_path.glob("profiles/*/*"))
