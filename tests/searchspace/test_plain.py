"""The plain family: uniform members of the space, spread over its costs; of an imported model its own cuts."""

from __future__ import annotations

import numpy as np
import pytest

from searchspace.cost import cost
from searchspace.load import load_space, resolve
from searchspace.plain import plain_family
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid

WORKLOAD = Workload(seq_len=64)
SPACES = (
    "tiny-lm",
    "small-lm",
    "lm-hybrid",
    "hybrid-2026",
    "vision",
    "tiny-vision",
    "encoder",
    "flexibert",
    "tiny-matformer",
)


def family(name: str) -> list[ArchSpec]:
    encoding = Encoding(load_space(name))
    genomes = plain_family(encoding, why_invalid, WORKLOAD)
    archs = [encoding.decode(g) for g in genomes]
    assert [encoding.encode(a) for a in archs] == list(genomes)
    return archs


@pytest.mark.parametrize("name", SPACES)
def test_every_block_is_the_same_full_attention(name: str) -> None:
    archs = family(name)
    assert 4 <= len(archs) <= 16
    assert len({a.id for a in archs}) == len(archs)
    for arch in archs:
        assert why_invalid(arch) is None
        used = {b for b in arch.blocks if b.is_active}
        assert len(used) == 1
        (block,) = used
        assert block.mixer.op == "softmax_attention"
        assert block.mixer["window"] == 0
        assert block.mixer["normalizer"].op == "softmax"
        assert block.ffn.op != "none"


@pytest.mark.parametrize("name", ["tiny-lm", "small-lm", "vision"])
def test_costs_are_evenly_spread_from_the_cheapest_to_the_dearest(name: str) -> None:
    found = np.log([cost(a, WORKLOAD).flops for a in family(name)])
    assert (found[:2] == [found.min(), found.max()]).all()
    flops = np.sort(found)
    assert np.diff(flops).max() <= 3 * np.ptp(flops) / (len(flops) - 1)


def test_heads_fill_the_residual_width_where_the_space_has_as_many() -> None:
    for arch in family("small-lm"):
        mixer = arch.blocks[0].mixer
        heads = mixer["num_groups"] * mixer["heads_per_group"] * mixer["head_dim"]
        assert heads / arch.d_model == pytest.approx(1, abs=0.35)
        assert mixer["heads_per_group"] == 1


def test_an_imported_model_is_itself_then_with_layers_left_out_then_narrower() -> None:
    block = {
        "mixer": [
            {"op": "softmax_attention", "num_groups": [1, 2], "heads_per_group": 1, "head_dim": 16},
            "none",
        ],
        "ffn": [{"op": "mlp", "d_ff": [32, 64, 96, 128]}, "none"],
        "norm": "rmsnorm",
        "projection": "dense",
        "placement": "pre",
    }
    space = resolve(
        {
            "name": "imported",
            "version": 1,
            "task": "causal_lm",
            "data": "plays",
            "d_model": 32,
            "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 64},
            "head": {"op": "lm_head", "vocab_size": 256},
            "stages": [{"num_blocks": 4}],
            "blocks": block,
        }
    )
    encoding = Encoding(space)
    archs = [encoding.decode(g) for g in plain_family(encoding, why_invalid, WORKLOAD, imported=True)]
    whole, *cuts = archs
    assert [b.ffn["d_ff"] for b in whole.blocks] == [128] * 4
    assert [b.mixer["num_groups"] for b in whole.blocks] == [2] * 4
    kept = [[i for i, b in enumerate(a.blocks) if b.is_active] for a in archs[:4]]
    assert kept == [[0, 1, 2, 3], [0, 2, 3], [0, 3], [0]]
    assert [b.ffn["d_ff"] for b in cuts[3].blocks] == [96] * 4
    sizes = [cost(a, WORKLOAD).flops for a in archs]
    assert max(sizes) == sizes[0]
