"""A space that is kept to plain networks has no other, and keeps those that leave layers out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nas.export.llama import why_not_llama
from nas.importing.space import space_data
from searchspace import registry
from searchspace.load import load_space, resolve
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.plain import plain_attention
from searchspace.spec.servable import PLAIN, servable
from searchspace.spec.space import SpaceSpec


def llama(**more: Any) -> ArchSpec:
    """As an imported one is: whose space leaves out blocks, units and heads."""
    mixer = OpSpec.of("softmax_attention", **dict(plain_attention(2, 2, 4).items) | more)
    dense = OpSpec.of("dense", bias=False)
    block = BlockSpec(mixer, OpSpec.of("swiglu", d_ff=32), OpSpec.of("rmsnorm", eps=1e-5), dense)
    return ArchSpec(
        "causal_lm",
        OpSpec.of("token_embedding", vocab_size=50, max_len=32),
        16,
        (block,) * 4,
        (StageSpec(4, 16),),
        OpSpec.of("tied_head", vocab_size=50),
        OpSpec.of("rope", base=10000, dim=4),
        OpSpec.of("rmsnorm", eps=1e-5),
    )


def test_every_network_of_it_is_a_llama():
    space = servable(resolve(space_data(llama(), "small", "plays")))
    assert space == resolve(space_data(llama(), "small", "plays") | {"servable": True})
    encoding = Encoding(space)
    genomes = encoding.random(200, np.random.default_rng(0))
    found = [encoding.decode(tuple(map(int, g))) for g in genomes]
    reasons = {why_not_llama(arch) for arch in found if any(b.is_active for b in arch.blocks)}
    assert reasons == {None}
    kept = {tuple(b.is_active for b in arch.blocks) for arch in found}
    assert len(kept) == 16  # any of the four layers may be left out
    for arch in (llama(), *found):
        assert encoding.decode(encoding.encode(arch)) == arch
    assert SpaceSpec.from_json(space.to_json()) == space
    size = 2 * 2 * 2 * 8 * 2**4  # channels, groups, heads of each, widths, which layers
    assert encoding.size() == size


def test_a_space_that_offers_no_llama_is_refused_by_what_it_lacks():
    with pytest.raises(ValueError, match="stem is patch_embedding, and a Llama has token_embedding"):
        servable(load_space("tiny-vision"))
    with pytest.raises(ValueError, match=r"softmax_attention has logit_softcap 5\.0, and a Llama 0"):
        servable(resolve(space_data(llama(logit_softcap=5.0), "small", "plays")))
    biased = OpSpec.of("lm_head", vocab_size=50, bias=True)
    assert why_not_llama(replace(llama(), head=biased)) == "its head has a bias"
    with pytest.raises(ValueError, match="its head has a bias"):
        servable(resolve(space_data(replace(llama(), head=biased), "small", "plays")))


def test_plain_settings_are_those_that_options_are_off_by():
    entry = registry.operator("mixer", "softmax_attention")
    for name, values in entry.options.items():
        assert PLAIN[name] == values[0]
    assert set(entry.options) | set(entry.fixed) <= set(PLAIN)
