"""The plain family: uniform members of the space, spread over its costs; of an imported model its own cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas.setup.runtime import with_int8
from searchspace.cost import cost
from searchspace.load import load_space, resolve
from searchspace.plain import imported_family, plain_family
from searchspace.spec.arch import ONNX_INT8, ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.handmade import IN_INT8, LAYERS_LEFT_OUT, NARROWER, ORIGINAL
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


def block_data() -> dict[str, Any]:
    return {
        "mixer": [
            {"op": "softmax_attention", "num_groups": [1, 2], "heads_per_group": 1, "head_dim": 16},
            "none",
        ],
        "ffn": [{"op": "mlp", "d_ff": [32, 64, 96, 128]}, "none"],
        "norm": "rmsnorm",
        "projection": "dense",
        "placement": "pre",
    }


def imported_space(num_blocks: int) -> dict[str, Any]:
    return {
        "name": "imported",
        "version": 1,
        "task": "causal_lm",
        "data": "plays",
        "d_model": 32,
        "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 64},
        "head": {"op": "lm_head", "vocab_size": 256},
        "stages": [{"num_blocks": num_blocks}],
        "blocks": block_data(),
    }


def test_an_imported_model_is_itself_then_with_layers_left_out_then_narrower() -> None:
    encoding = Encoding(resolve(imported_space(4)))
    family = imported_family(encoding, why_invalid)
    whole, *cuts = map(encoding.decode, family)
    kinds = list(family.values())
    assert kinds[:2] == [ORIGINAL, LAYERS_LEFT_OUT]
    assert ORIGINAL not in kinds[1:]
    assert [b.ffn["d_ff"] for b in whole.blocks] == [128] * 4
    assert [b.mixer["num_groups"] for b in whole.blocks] == [2] * 4
    kept = [[i for i, b in enumerate(a.blocks) if b.is_active] for a in cuts[:8]]
    each_alone = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert kept == [*each_alone, [0, 3], [0, 1], [0], [0, 1, 2, 3]]
    assert all(b == w for a in cuts[:7] for b, w in zip(a.blocks, whole.blocks, strict=True) if b.is_active)
    assert [b.ffn["d_ff"] for b in cuts[7].blocks] == [96] * 4
    assert kinds[8] == NARROWER
    assert len({a.id for a in (whole, *cuts)}) == len(family)


def test_every_layer_is_left_out_alone_before_anything_else_and_both_ends_are_kept() -> None:
    """Evenly spaced: the first and the last layer are there wherever more than one is kept."""
    encoding = Encoding(resolve(imported_space(6)))
    kept = [
        [i for i, b in enumerate(encoding.decode(g).blocks) if b.is_active]
        for g in imported_family(encoding, why_invalid, count=13)
    ][1:]
    assert sorted(kept[:6]) == sorted([i for i in range(6) if i != out] for out in range(6))
    assert kept[6:] == [[0, 2, 3, 5], [0, 1, 2, 3], [0, 2, 5], [0, 1, 2], [0, 5], [0, 1]]


def test_where_int8_is_offered_the_model_and_its_cuts_are_there_in_both_numbers() -> None:
    space = with_int8(resolve(imported_space(3)))
    encoding = Encoding(space)
    family = imported_family(encoding, why_invalid, count=100)
    own, twin, *cuts = map(encoding.decode, family)
    assert list(family.values())[:2] == [ORIGINAL, ORIGINAL + IN_INT8]
    assert own.formats == ()
    assert twin.formats == (ONNX_INT8,)
    assert twin.unquantized == own
    assert {f.name for b in twin.blocks for _, f in b.quant.roles} == {ONNX_INT8}
    assert {a.id for a in cuts if not a.formats} == {a.unquantized.id for a in cuts if a.formats}
    assert all(bool(encoding.decode(g).formats) == kind.endswith(IN_INT8) for g, kind in family.items())
    as_file = resolve(
        imported_space(3) | {"blocks": block_data() | {"quant": {"maps": ["native", ONNX_INT8]}}}
    )
    assert as_file == space
