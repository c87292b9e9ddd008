"""Networks are measured by name, beside the reference, and one that fails costs only its own number."""

import pytest
import torch

from predictors.network_bench import REFERENCE, measure_networks, network_call, reference_call
from predictors.profiling import random_models
from searchspace.load import load_space
from searchspace.model import Model
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid


def models(space, count):
    return random_models(sample(Encoding(load_space(space)), count, 0, Workload()))


class Broken(Model):
    def forward(self, inputs, tokens=None, state=None):
        raise MemoryError("out of memory")


def test_a_failing_network_loses_only_its_own_number():
    found = models("tiny-lm", 2)
    one, two = found
    subjects = {"one": found[one], "broken": Broken(REFERENCE), "two": found[two]}
    rows, failures = measure_networks(subjects, Workload(seq_len=8), samples=5, nominal_ms=3.0)
    assert [row.subject for row in rows] == ["one", "two"]
    assert failures == {"broken": "MemoryError: out of memory"}
    for row in rows:
        assert (row.quantity, row.unit, row.reference, row.samples) == ("latency", "ms", 3.0, 5)
        assert row.p10 is not None
        assert row.p90 is not None
        assert 0 < row.p10 <= row.value <= row.p90
        assert row.device.endswith("1 thread")
        assert row.software.startswith("torch ")


def test_nothing_that_runs_gives_no_rows():
    rows, failures = measure_networks({"broken": Broken(REFERENCE)}, Workload())
    assert rows == []
    assert list(failures) == ["broken"]


def test_a_phase_that_a_network_does_not_have_is_a_failure_with_its_reason():
    found = models("tiny-vision", 1)
    _, failures = measure_networks(found, Workload(phase="decode"))
    assert "not causal only has the phases forward and train, got decode" in next(iter(failures.values()))


def test_decoding_computes_the_token_that_follows_the_context():
    model = next(iter(models("tiny-lm", 1).values()))
    with torch.inference_mode():
        y, state = network_call(model, Workload(phase="decode", seq_len=64, context_len=9), "cpu")()
        prefilled, prefill_state = network_call(model, Workload(phase="prefill", seq_len=9), "cpu")()
    assert y.shape == (1, 1, 256)
    assert state["num_tokens"] == 10
    assert prefilled.shape == (1, 9, 256)
    assert prefill_state["num_tokens"] == 9


@pytest.mark.parametrize(("space", "shape"), [("tiny-lm", (3, 7, 256)), ("tiny-vision", (3, 10))])
def test_the_batch_and_length_are_those_of_the_workload(space, shape):
    model = next(iter(models(space, 1).values()))
    with torch.inference_mode():
        y, _ = network_call(model, Workload(batch_size=3, seq_len=7), "cpu")()
    assert y.shape == shape


def test_the_reference_is_a_valid_network_and_the_same_each_time():
    assert why_invalid(REFERENCE) is None
    with torch.inference_mode():
        (a, _), (b, _) = reference_call("cpu")(), reference_call("cpu")()
    assert torch.equal(a, b)
