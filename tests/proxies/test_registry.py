"""What holds for every proxy, and what the registry refuses."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from proxies import registry
from proxies.batch import Batch, random_batch
from proxies.names import PROXY_NAMES, ProxyName
from proxies.registry import Proxy, Score, proxies, score, score_subject
from proxies.subject import Subject, Unscorable
from searchspace.cost import cost
from searchspace.load import builtin_spaces, load_space
from searchspace.model import Model
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from tests.proxies.conftest import decoder

COUNTS = {name for name, entry in PROXY_NAMES.items() if entry.is_baseline}


def values(arch, batch, seed=0):
    return {name: s.value for name, s in score(sorted(PROXY_NAMES), arch, batch, seed).items()}


@cache
def values_before():
    return values(decoder(), random_batch(decoder(), 4, seed=0))


def test_every_name_has_a_file_and_every_file_a_name():
    assert set(proxies()) == set(PROXY_NAMES)
    assert all(name == entry.name for name, entry in proxies().items())


@pytest.mark.parametrize("space", builtin_spaces())
def test_an_architecture_of_every_built_in_space_has_finite_scores_or_reasons(space):
    spec = load_space(space)
    known = {"", "no attention maps", "no mixer has a weight matrix", "no ffn has a weight matrix"}
    (arch,) = sample(Encoding(spec), 1, seed=0, workload=Workload())
    for name, result in score(PROXY_NAMES, arch, random_batch(spec, 2, seed=0), seed=0).items():
        assert math.isnan(result.value) == bool(result.reason), name
        assert result.reason in known, name
        assert result.ms > 0


@pytest.mark.parametrize("changed", [decoder(d_model=24), decoder(d_ff=48), decoder(num_blocks=3)])
def test_every_proxy_sees_width_ffn_width_and_depth(changed, batch):
    before, after = values_before(), values(changed, batch)
    same = {name for name in proxies() if before[name] == after[name]}
    assert same == {name for name in ("depth", "state_bytes") if counts_are_equal(name, decoder(), changed)}


def counts_are_equal(name, arch, other):
    """Whether a baseline that does not look at width stays what it was."""
    if name == "depth":
        return len(arch.blocks) == len(other.blocks)
    return arch.blocks[0].mixer == other.blocks[0].mixer and len(arch.blocks) == len(other.blocks)


def test_the_order_of_the_batch_changes_no_score(batch):
    order = torch.tensor([2, 0, 3, 1])
    permuted = Batch(batch.inputs[order], batch.targets[order])
    before, after = values(decoder(), batch), values(decoder(), permuted)
    grasp = after.pop("grasp"), before.pop("grasp")
    assert grasp[0] == pytest.approx(grasp[1], rel=1e-2)  # a difference of gradients in float32
    assert after == pytest.approx(before, rel=1e-4)


def test_one_seed_gives_the_same_bits_whatever_was_drawn_before(batch):
    first = values(decoder(), batch, seed=3)
    torch.manual_seed(77)
    assert values(decoder(), batch, seed=3) == first
    second = values(decoder(), batch, seed=4)
    assert {name for name in PROXY_NAMES if second[name] == first[name]} == COUNTS


def test_scoring_leaves_the_global_random_numbers_alone(batch):
    before = torch.get_rng_state()
    values(decoder(), batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_with_bad_weights_scores_nan_with_the_weight_named(batch, bad):
    subject = Subject(decoder(), batch, seed=0)
    with torch.no_grad():
        subject.model.get_parameter("blocks.1.ffn.up_proj.weight")[0, 0] = bad
    for name, result in score_subject(sorted(set(proxies()) - COUNTS), subject).items():
        assert math.isnan(result.value), name
        assert result.reason == "blocks.1.ffn.up_proj.weight holds values that are not finite", name


def test_a_score_that_overflows_is_nan_with_a_reason():
    entry = Proxy(name="zen", paper="", needs="nothing", score=lambda subject: math.inf)
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
    found = score(sorted(COUNTS), arch, None, seed=0)
    assert found["depth"].value == 2
    assert found["state_bytes"].value == cost(arch, Workload(seq_len=8)).state_bytes
    assert found["parameters"].value == sum(p.numel() for p in Model(arch).parameters())
    assert found["flops"].value == cost(arch, Workload(seq_len=8)).flops


def test_an_unknown_name_is_refused_with_the_known_ones(batch):
    with pytest.raises(ValueError, match=r"unknown proxy 'zero'; known: activation_distance, .*, zico"):
        score(["flops", "zero"], decoder(), batch, seed=0)


def test_a_proxy_that_needs_a_batch_says_so():
    with pytest.raises(ValueError, match="'gradient_norm' needs a batch"):
        score(["gradient_norm"], decoder(), None, seed=0)


def test_a_name_used_twice_raises():
    found = dict(proxies())
    with pytest.raises(ValueError, match="two proxies are named 'flops'"):
        registry._add(found, proxies()["flops"])


def test_an_entry_with_an_unknown_name_need_or_direction_is_refused():
    flops = proxies()["flops"]
    with pytest.raises(ValueError, match="proxy 'zero' has no line"):
        replace(flops, name="zero")
    with pytest.raises(ValueError, match="proxy flops: unknown needs 'labels'; known: nothing, batch"):
        replace(flops, needs="labels")
    with pytest.raises(ValueError, match="proxy x: unknown direction 'up'; known: maximize, minimize"):
        ProxyName("x", "up", "")


def test_a_proxy_without_a_value_keeps_its_reason():
    def refuse(subject):
        raise Unscorable("no gradient reaches the hash")

    entry = Proxy(name="zen", paper="", needs="nothing", score=refuse)
    result = registry._score_one(entry, Subject(decoder(), None, seed=0))
    assert isinstance(result, Score)
    assert math.isnan(result.value)
    assert result.reason == "no gradient reaches the hash"
