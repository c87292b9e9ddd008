"""What holds for every proxy, and what the registry refuses."""

import math
from dataclasses import replace

import pytest
import torch

from proxies import registry
from proxies.batch import Batch, random_batch
from proxies.registry import Proxy, Score, proxies, score, score_subject
from proxies.subject import Subject, Unscorable
from searchspace.cost import cost
from searchspace.load import builtin_spaces, load_space
from searchspace.model import Model
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from tests.proxies.conftest import decoder

COUNTS = {"parameters", "flops"}


def values(arch, batch, seed=0):
    return {name: s.value for name, s in score(proxies(), arch, batch, seed).items()}


def test_every_file_with_a_proxy_is_found():
    assert set(proxies()) == {"parameters", "flops", "gradient_norm", "synflow", "log_synflow"}
    assert all(name == entry.name for name, entry in proxies().items())


@pytest.mark.parametrize("space", builtin_spaces())
def test_every_architecture_of_a_built_in_space_has_finite_scores(space):
    spec = load_space(space)
    batch = random_batch(spec, 4, seed=0)
    for arch in sample(Encoding(spec), 6, seed=0, workload=Workload()):
        for result in score(proxies(), arch, batch, seed=0).values():
            assert math.isfinite(result.value)
            assert result.value > 0
            assert result.reason == ""
            assert result.ms > 0


@pytest.mark.parametrize("changed", [decoder(d_model=24), decoder(d_ff=48), decoder(num_blocks=3)])
def test_every_proxy_sees_width_ffn_width_and_depth(changed, batch):
    before, after = values(decoder(), batch), values(changed, batch)
    assert [name for name in proxies() if before[name] == after[name]] == []


def test_the_order_of_the_batch_changes_no_score(batch):
    order = torch.tensor([2, 0, 3, 1])
    permuted = Batch(batch.inputs[order], batch.targets[order])
    before, after = values(decoder(), batch), values(decoder(), permuted)
    assert after == pytest.approx(before, rel=1e-5)


def test_one_seed_gives_the_same_bits_whatever_was_drawn_before(batch):
    first = values(decoder(), batch, seed=3)
    torch.manual_seed(77)
    assert values(decoder(), batch, seed=3) == first
    second = values(decoder(), batch, seed=4)
    assert {name for name in proxies() if second[name] == first[name]} == COUNTS


def test_scoring_leaves_the_global_random_numbers_alone(batch):
    before = torch.get_rng_state()
    values(decoder(), batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_with_bad_weights_scores_nan_with_the_weight_named(batch, bad):
    subject = Subject(decoder(), batch, seed=0)
    with torch.no_grad():
        subject.model.get_parameter("blocks.1.ffn.up_proj.weight")[0, 0] = bad
    results = score_subject(["gradient_norm", "synflow", "log_synflow"], subject)
    for result in results.values():
        assert math.isnan(result.value)
        assert result.reason == "blocks.1.ffn.up_proj.weight holds values that are not finite"


def test_a_score_that_overflows_is_nan_with_a_reason():
    entry = Proxy(name="x", paper="", direction="maximize", needs="nothing", score=lambda subject: math.inf)
    result = registry._score_one(entry, Subject(decoder(), None, seed=0))
    assert math.isnan(result.value)
    assert result.reason == "the score is inf"


def test_work_that_proxies_share_is_done_once(batch):
    calls = []

    def compute(subject):
        calls.append(subject)
        return 5

    subject = Subject(decoder(), batch, seed=0)
    assert [subject.once(compute), subject.once(compute)] == [5, 5]
    assert calls == [subject]


def test_counts_equal_the_cost_model_and_the_built_network():
    arch = decoder()
    found = score(["parameters", "flops"], arch, None, seed=0)
    assert found["parameters"].value == sum(p.numel() for p in Model(arch).parameters())
    assert found["flops"].value == cost(arch, Workload(seq_len=8)).flops


def test_an_unknown_name_is_refused_with_the_known_ones(batch):
    with pytest.raises(ValueError, match=r"unknown proxy 'zen'; known: flops, .*, synflow"):
        score(["flops", "zen"], decoder(), batch, seed=0)


def test_a_proxy_that_needs_a_batch_says_so():
    with pytest.raises(ValueError, match="'gradient_norm' needs a batch"):
        score(["gradient_norm"], decoder(), None, seed=0)


def test_a_name_used_twice_raises():
    found = dict(proxies())
    with pytest.raises(ValueError, match="two proxies are named 'flops'"):
        registry._add(found, proxies()["flops"])


@pytest.mark.parametrize("wrong", [{"direction": "up"}, {"needs": "labels"}])
def test_an_entry_with_an_unknown_direction_or_need_is_refused(wrong):
    with pytest.raises(ValueError, match="proxy flops: unknown"):
        replace(proxies()["flops"], **wrong)


def test_a_proxy_without_a_value_keeps_its_reason():
    def refuse(subject):
        raise Unscorable("no gradient reaches the hash")

    entry = Proxy(name="x", paper="", direction="maximize", needs="nothing", score=refuse)
    result = registry._score_one(entry, Subject(decoder(), None, seed=0))
    assert isinstance(result, Score)
    assert math.isnan(result.value)
    assert result.reason == "no gradient reaches the hash"
