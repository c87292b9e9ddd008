"""Packed sequences: a row without padding, computed where it can be and refused with a sentence where it can't."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from searchspace.contracts import cases
from searchspace.model import Model, why_not_packed
from searchspace.primitives.context import Tokens
from searchspace.primitives.packing import pack, unpack
from searchspace.registry import operator, operators
from searchspace.spec.arch import NONE, ArchSpec, OpSpec

LENGTHS = (5, 1, 0, 9)
OFFSETS = (0, 5, 6, 6, 15)


def network(slot: str, name: str, **choices: object) -> ArchSpec:
    """The contracts' small network with an operator in its place."""
    case = next(
        c for c in cases.quick(slot) if c.spec.op == name and choices.items() <= dict(c.spec.items).items()
    )
    return cases.network(case, on_text=True)


def ids_and_sequences() -> tuple[Tensor, list[Tensor]]:
    ids = torch.randint(0, 16, (1, OFFSETS[-1]))
    return ids, list(ids.split(LENGTHS, 1))


def test_unpacking_and_packing_give_the_row_back() -> None:
    x, angles = torch.randn(1, 15, 3), torch.randn(15, 2)
    tokens = Tokens(offsets=OFFSETS, positions=torch.arange(15), rotary=(angles, angles))
    rows, facts = unpack(x, tokens)
    assert rows.shape == (4, 9, 3)
    assert facts.valid is not None
    assert facts.rotary is not None
    assert facts.valid.sum(1).tolist() == list(LENGTHS)
    assert torch.equal(facts.rotary[0][facts.valid], angles)
    assert torch.equal(pack(rows, tokens), x)


@pytest.mark.parametrize("name", ["softmax_attention", "gated_deltanet", "short_conv", "pooling"])
def test_packed_sequences_are_computed_as_if_each_were_alone(name: str) -> None:
    """Also in float32, where nothing but the order of sums may differ: attention, recurrence, convolution, pooling."""
    model = Model(network("mixer", name)).eval()
    ids, sequences = ids_and_sequences()
    packed = model(ids, Tokens(offsets=OFFSETS))[0]
    alone = torch.cat([model(s)[0] for s in sequences if s.numel()], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_sequences_changes_nothing() -> None:
    model = Model(network("mixer", "softmax_attention")).eval()
    ids, (a, b, c, d) = ids_and_sequences()
    there, _ = model(ids, Tokens(offsets=OFFSETS))
    back, _ = model(torch.cat((d, b, a), 1), Tokens(offsets=(0, 9, 10, 15)))
    first, second = there.split(LENGTHS, 1)[0], back.split((9, 1, 5), 1)[2]
    torch.testing.assert_close(second, first)


def test_attention_on_packed_sequences_counts_no_padding() -> None:
    """sum n^2 scores for sequences of n tokens, and the maps of sum n tokens: what each of them costs alone."""
    model = Model(network("mixer", "softmax_attention", window=0)).eval()
    ids, sequences = ids_and_sequences()
    with FlopCounterMode(display=False) as packed:
        model(ids, Tokens(offsets=OFFSETS))
    with FlopCounterMode(display=False) as alone:
        for sequence in sequences:
            if sequence.numel():
                model(sequence)
    assert packed.get_total_flops() == alone.get_total_flops()


def test_only_what_mixes_tokens_is_given_padded_rows() -> None:
    assert operator("ffn", "mlp").position_wise
    assert operator("norm", "batchnorm").position_wise
    assert not operator("norm", "group1").position_wise
    assert not operator("ffn", "conv_ffn").position_wise
    assert not any(operator(s, n).position_wise for s, n in operators() if s == "mixer" and n != "none")


def test_a_network_that_takes_no_packed_sequences_says_so() -> None:
    arch = network("transition", "block_embedding")
    with pytest.raises(
        ValueError, match=r"block_embedding changes which tokens .*; pad the sequences instead"
    ):
        Model(arch)(torch.zeros(1, 15, dtype=torch.int64), Tokens(offsets=OFFSETS))
    image = OpSpec.of("patch_embedding", image_size=8, patch_size=1, channels=1)
    assert (
        why_not_packed(replace(network("ffn", "mlp"), stem=image))
        == "stem: patch_embedding takes no packed sequences"
    )
    assert why_not_packed(replace(network("ffn", "mlp"), position=NONE)) is None


def test_offsets_that_do_not_fit_are_refused() -> None:
    model = Model(network("mixer", "softmax_attention")).eval()
    ids = torch.zeros(1, 15, dtype=torch.int64)
    for offsets in ((0, 5), (1, 15), (0, 9, 5, 15)):
        with pytest.raises(ValueError, match="don't cut a row"):
            model(ids, Tokens(offsets=offsets))
    with pytest.raises(ValueError, match="give offsets alone"):
        model(ids, Tokens(offsets=OFFSETS), model.init_state(1))
    with pytest.raises(ValueError, match="give offsets alone"):
        model(ids, Tokens(offsets=OFFSETS, valid=torch.ones_like(ids, dtype=torch.bool)))
