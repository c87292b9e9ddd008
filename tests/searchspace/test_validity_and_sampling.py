"""What is sampled is valid; what is not valid is refused in a sentence that names the place."""

from dataclasses import replace

import numpy as np
import pytest

from searchspace import sampling
from searchspace.cost import cost
from searchspace.load import load_space, resolve
from searchspace.model import Model
from searchspace.sampling import sample
from searchspace.spec.arch import INACTIVE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.validity import violations, why_invalid
from tests.searchspace.archs import ATTENTION, BLOCK, DENSE, decoder, encoder, tiny_space

ROPE = OpSpec.of("rope", base=10000, dim=2)
PATCHES = OpSpec.of("patch_embedding", image_size=8, patch_size=3, channels=1)
SINKS = OpSpec("softmax_attention", tuple((n, 4 if n == "sinks" else v) for n, v in ATTENTION.items))
WRONG: list[tuple[ArchSpec, str]] = [
    (decoder(INACTIVE), "every block is none"),
    (replace(encoder(8), stages=(StageSpec(1, 16),)), "stage 0: going from width 8 to 16 needs a transition"),
    (replace(encoder(8), stem=PATCHES), "stem: patch_embedding: image_size 8 is no multiple of patch_size 3"),
    (
        decoder(replace(BLOCK, mixer=SINKS)),
        "blocks.0: softmax_attention: sinks=4 mean nothing without a window",
    ),
    (decoder(BLOCK, replace(BLOCK, mixer=OpSpec("mlp"))), "blocks.1: unknown mixer 'mlp'; known: "),
    (decoder(replace(BLOCK, ffn=OpSpec("mlp"))), "blocks.0: mlp lacks activation, d_ff"),
    (decoder(replace(BLOCK, norm=OpSpec.of("rmsnorm", gain=1))), "rmsnorm has no item gain"),
    (replace(decoder(BLOCK), position=ROPE), "blocks.0: head_dim 4 is wider than the 2 rotary channels"),
    (encoder(8, 16, 16, 16, 16), "stages.4.enter: q_pooling needs an even grid, got 1 x 1"),
    (
        encoder(8, block=BlockSpec(OpSpec.of("gated_linear_attention"), projection=DENSE)),
        "blocks.0: gated_linear_attention lacks",
    ),
]


@pytest.mark.parametrize(("arch", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_an_invalid_architecture_is_refused_in_a_sentence(arch: ArchSpec, sentence: str):
    assert sentence in str(why_invalid(arch))


@pytest.mark.parametrize("name", ["tiny-lm", "tiny-vision"])
def test_sampled_architectures_are_valid_distinct_and_build(name: str):
    encoding = Encoding(load_space(name))
    archs = sample(encoding, 20, seed=1, workload=Workload())
    assert len({a.id for a in archs}) == 20
    assert [why_invalid(a) for a in archs] == [None] * 20
    assert archs == sample(encoding, 20, seed=1, workload=Workload())
    for arch in archs[:5]:
        assert sum(p.numel() for p in Model(arch).parameters()) == cost(arch, Workload()).parameters


def test_bounds_hold_for_what_is_sampled():
    bounds = [{"quantity": "parameters", "lower": 500, "upper": 900}]
    space = resolve(tiny_space(constraints=bounds))
    for arch in sample(Encoding(space), 10, seed=0, workload=Workload()):
        assert 500 <= cost(arch, Workload()).parameters <= 900
        assert violations(arch, space.constraints, Workload()) == {}


def test_too_few_are_reported_with_the_reason():
    space = resolve(tiny_space(constraints=[{"quantity": "parameters", "upper": 1}]))
    with pytest.raises(ValueError, match=r"0 distinct valid architectures in 300 draws.*bound on parameters"):
        sample(Encoding(space), 1, seed=0, workload=Workload(), max_draws=300)


def test_drawing_ends_where_nothing_is_valid(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampling, "MAX_REFUSED", 300)
    space = resolve(tiny_space(constraints=[{"quantity": "parameters", "upper": 1}]))
    draws = sampling.valid_architectures(Encoding(space), np.random.default_rng(0), Workload())
    with pytest.raises(ValueError, match=r"300 refused.*bound on parameters"):
        next(draws)
