"""Draws of every size: of a deep space, where uniform genomes are all of middling size, and within thin bounds."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from searchspace.cost import cost
from searchspace.load import load_space, resolve
from searchspace.sampling import Tally, by_size, even_steps, sample, valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, Genome
from searchspace.spec.space import Constraint, SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import violations, why_invalid

WORKLOAD = Workload()
ATTENTION = {"op": "softmax_attention", "num_groups": [1, 2], "heads_per_group": 1, "head_dim": 16}
ATTENTION |= {"window": [0, 8], "sinks": 0, "normalizer": "softmax", "qk_norm": "none", "score_bias": "none"}


@cache
def deep(*constraints: Constraint) -> SpaceSpec:
    """24 blocks that may each be left out, as around an imported model."""
    space = resolve(
        {
            "name": "deep",
            "task": "causal_lm",
            "data": "plays",
            "d_model": 32,
            "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 64},
            "head": {"op": "lm_head", "vocab_size": 256},
            "stages": [{"num_blocks": 24}],
            "blocks": {
                "mixer": [ATTENTION | {"temperature": "none"}, "none"],
                "ffn": [{"op": "swiglu", "d_ff": [16, 32, 48, 64]}, "none"],
            },
        }
    )
    return replace(space, constraints=constraints)


def parameters(encoding: Encoding, genome: Genome) -> int:
    return cost(encoding.decode(genome), WORKLOAD).parameters


def is_valid(arch: ArchSpec) -> bool:
    return why_invalid(arch) is None


def ends() -> tuple[int, int]:
    """Parameters of one ffn of the smallest width, and of all blocks at their widest, counted by hand."""
    attention, norm = 4 * 32 * 32, 32
    outside, block = 2 * 256 * 32, attention + 3 * 64 * 32 + 2 * norm
    return outside + 3 * 16 * 32 + norm, outside + 24 * block


def test_the_steps_are_the_largest_the_smallest_and_even_between():
    encoding = Encoding(deep())
    found = [parameters(encoding, g) for g in even_steps(encoding, WORKLOAD, is_valid)]
    low, high = ends()
    assert (found[0], found[1]) == (high, low)
    step = (high - low) / 7
    np.testing.assert_allclose(np.diff([low, *found[2:], high]), step, atol=0.3 * step)
    largest = encoding.decode(even_steps(encoding, WORKLOAD, is_valid)[0])
    assert {b.mixer["window"] for b in largest.blocks} == {0}  # 0 is a window over all tokens


def test_draws_cover_a_deep_space_evenly_where_uniform_ones_do_not():
    encoding, rng = Encoding(deep()), np.random.default_rng(0)
    low, high = ends()
    draw = by_size(encoding, WORKLOAD)
    even = [parameters(encoding, draw(rng, rng.random())) for _ in range(200)]
    uniform = [parameters(encoding, tuple(g)) for g in encoding.random(200, rng).tolist()]
    fifths = [np.histogram(values, 5, (low - 2000, high))[0] for values in (even, uniform)]
    assert fifths[0].min() >= 20
    assert fifths[1].min() == 0


@pytest.mark.parametrize("share", [0.002, 0.05, 0.4])
@pytest.mark.parametrize("quantity", ["parameters", "flops"])
def test_a_thin_range_near_the_largest_is_found(quantity: str, share: float):
    whole = getattr(
        cost(Encoding(deep()).decode(even_steps(Encoding(deep()), WORKLOAD, is_valid)[0]), WORKLOAD), quantity
    )
    bound = Constraint(quantity, lower=(1 - share) * whole)
    encoding = Encoding(deep(bound))
    for arch in sample(encoding, 5, 0, WORKLOAD, max_draws=3000):
        assert not violations(arch, [bound], WORKLOAD)
    assert all(
        not violations(encoding.decode(g), [bound], WORKLOAD)
        for g in even_steps(
            encoding, WORKLOAD, lambda a: is_valid(a) and not violations(a, [bound], WORKLOAD)
        )
    )


def test_without_a_bound_in_the_way_draws_are_the_uniform_ones():
    space = load_space("tiny-lm")
    loose = replace(space, constraints=(Constraint("parameters", upper=1e9),))
    drawn = [
        [
            next(archs)[0]
            for archs in [valid_architectures(Encoding(s), np.random.default_rng(0), WORKLOAD, Tally())]
        ]
        for s in (space, loose)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", ["tiny-lm", "lm-hybrid", "vision"])
def test_the_largest_network_of_a_built_in_space_is_valid_and_no_draw_is_larger_with_its_operators(name: str):
    encoding = Encoding(load_space(name))
    largest, smallest, *between = even_steps(encoding, WORKLOAD, is_valid)
    assert parameters(encoding, smallest) < min(parameters(encoding, g) for g in between)
    assert parameters(encoding, largest) >= max(parameters(encoding, g) for g in between)
