"""A device that is another one slowed down, operator family by operator family, is known from a few networks."""

from dataclasses import replace

import numpy as np
import pytest

from predictors import onboarding
from predictors.lookup import OperatorTable
from predictors.onboarding import adapted_profile, adapted_to, left_out_error
from predictors.operator_grid import settings
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from tests.predictors.synthetic import WORKLOAD, network, profile, roofline_ms, slot_ms, space_profile

SPACE = load_space("tiny-lm")


def slower(work, setting):
    """Three times the memory traffic's time, half the launch."""
    return 0.005 + work.flops / 2e6 + work.bytes / 3e5


@pytest.fixture(scope="module")
def networks():
    truth = OperatorTable(space_profile(SPACE, slower))
    archs = sample(Encoding(SPACE), 60, 0, WORKLOAD)
    return [network(SPACE, a, truth.latency(a, WORKLOAD).value_ms) for a in archs]


def test_twenty_networks_adapt_the_table_of_another_device(networks):
    own = profile([], device="new", networks=networks[:20])
    adapted = adapted_to(own, replace(space_profile(SPACE, roofline_ms, device="old"), reference_ms=4.0))
    assert (adapted.device, adapted.adapted_from) == ("new", f"old, {WORKLOAD}")
    table = OperatorTable.of_profile(adapted, SPACE.name)
    errors = [abs(table.latency(n.arch, WORKLOAD).value_ms / n.measurement.value - 1) for n in networks[20:]]
    assert np.median(errors) < 0.1


def test_the_source_that_explains_the_networks_best_is_taken_and_kept(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(onboarding, "measured_networks", lambda *_: tuple(networks[:20]))
    like = space_profile(SPACE, slower, device="like")
    unlike = space_profile(SPACE, slot_ms, device="unlike")
    without = profile(settings(load_space("tiny-vision")), device="of images")
    sources = {tmp_path / p.device: p for p in (unlike, like, without)}
    found = adapted_profile(SPACE, WORKLOAD, tmp_path, sources, 20)
    assert found.adapted_from.startswith("like")
    assert (left_out_error(found) or 1.0) < 0.01
    again = adapted_profile(SPACE, WORKLOAD, tmp_path, sources, 20)
    assert again.adapted_from == found.adapted_from
    with pytest.raises(ValueError, match="none of 1 known profiles has the operators of tiny-lm"):
        adapted_profile(SPACE, WORKLOAD, tmp_path, {tmp_path / "x": without}, 20)
    replace(found, adapted_from="").save(onboarding.local_profile_folder(WORKLOAD, tmp_path))
    with pytest.raises(ValueError, match="is a full profile of this device and workload"):
        adapted_profile(SPACE, WORKLOAD, tmp_path, sources, 20)
