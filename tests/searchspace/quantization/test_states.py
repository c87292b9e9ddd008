"""States in few bits: rows by the attention that they get, and who may be stored so."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from searchspace.contracts import cases
from searchspace.contracts.decoding import decoded
from searchspace.model import Model
from searchspace.primitives.state_size import keeps_rows
from searchspace.primitives.stored_state import (
    StoredByImportance,
    important,
    in_bits,
    start,
    store,
    stored_bytes,
)
from searchspace.registry import operator
from searchspace.spec.arch import ArchSpec, Format, OpSpec, QuantPolicy
from searchspace.validity import why_invalid

ALISA = OpSpec.of(
    "alisa_attention",
    num_groups=2,
    heads_per_group=2,
    head_dim=16,
    keep_ratio=0.5,
    local_share=0.5,
    window=4,
)


def network(state: str, mixer: OpSpec = ALISA) -> ArchSpec:
    arch = cases.network(cases.Case("mixer", mixer, cases.CAUSAL))
    quant = QuantPolicy(state=Format.of(state))
    return replace(arch, blocks=tuple(replace(b, quant=quant) for b in arch.blocks))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("K", [3, 16, 33])
def test_a_stored_value_is_at_most_half_a_step_away(bits: int, K: int):
    rows = torch.randn(2, 5, 3, K, generator=torch.Generator().manual_seed(0))
    kept = in_bits(rows, bits)
    off = (kept.read() - rows).abs()
    if bits == 16:
        assert (off <= rows.abs() * 2**-8).all()
        return
    step = kept.scale.float().view(2, 5, 3, 1)
    ends = 0.0 if bits == 8 else 2**-8 * (kept.offset.float().abs().view_as(step) + 2**bits * step)
    assert (off <= step / 2 * (1 + 1e-5) + ends).all()
    assert kept.nbytes == 30 * (-(-K * bits // 8) + 4)  # two numbers of 2 bytes or one of 4 read a row


def test_the_fewest_tokens_that_hold_the_share_are_in_more_bits():
    mass = torch.tensor([0.1, 0.5, 0.0, 0.3, 0.1]).view(1, 5, 1)
    for share, count in ((0.0, 0), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.95, 4)):
        assert int(important(mass, share, 1.0).sum()) == count
    assert important(mass, 0.6, 1.0).flatten().tolist() == [False, True, False, True, False]
    assert important(mass, 1.0, 1.0).all()
    assert int(important(mass, 1.0, 0.5).sum()) == 3


def test_a_larger_share_keeps_what_a_smaller_one_keeps():
    mass = torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0)) ** 4
    shares = [important(mass, s / 20, 1.0) for s in range(21)]
    for smaller, larger in pairwise(shares):
        assert not (smaller & ~larger).any()


def test_each_row_is_stored_in_the_bits_of_its_importance():
    rows = torch.randn(2, 20, 3, 16, generator=torch.Generator().manual_seed(0))
    mass = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(1)) ** 8
    for name, bits in (("zip8_4", (8, 4)), ("zip4_2", (4, 2))):
        before = start({"k": rows[:, :0]}, Format.of(name))
        kept = store({"k": rows}, before, lambda state: mass)["k"]
        assert isinstance(kept, StoredByImportance)
        is_high = important(mass)
        assert 0 < int(is_high.sum()) < is_high.numel()
        high, low = (in_bits(rows, b).read() for b in bits)
        assert torch.equal(kept.read(), torch.where(is_high.unsqueeze(-1), high, low))
        assert kept.nbytes <= stored_bytes(20, 6, 16, Format.of(name))
        even = store({"k": rows}, before, lambda state: torch.ones_like(mass))["k"]
        assert even.nbytes == stored_bytes(20, 6, 16, Format.of(name))


@torch.no_grad()
def test_more_bits_for_the_rows_that_are_looked_at_err_less_than_few_for_all():
    torch.manual_seed(0)
    model = Model(network("native")).eval()
    cases.randomize(model)
    ids = cases.network_inputs(model.arch, 40)
    exact, off = model(ids)[0], {}
    for name in ("int8", "zip8_4", "int4", "zip4_2"):
        rounded = Model.from_weights(network(name), model.state_dict()).eval()
        off[name] = float((decoded(rounded, ids, [1] * 40) - exact).norm() / exact.norm())
    assert off["int8"] < off["zip8_4"] < off["int4"] < off["zip4_2"]


@pytest.mark.parametrize("num_tokens", [0, 1, 16, 17, 64, 65, 100])
def test_a_row_is_stored_in_the_bits_of_its_age(num_tokens: int):
    rows = torch.randn(2, num_tokens, 3, 16, generator=torch.Generator().manual_seed(0))
    fmt = Format.of("stairs16_8_4")
    kept = store({"k": rows}, start({"k": rows[:, :0]}, fmt))["k"]
    age = torch.arange(num_tokens).flip(0)
    for bits, has in ((16, age < 16), (8, (age >= 16) & (age < 64)), (4, age >= 64)):
        assert torch.equal(kept.read()[:, has], in_bits(rows[:, has], bits).read())
    assert kept.nbytes == stored_bytes(num_tokens, 6, 16, fmt)
    again = store({"k": kept.read()}, {"k": kept})["k"]
    assert torch.equal(again.read(), kept.read())


@torch.no_grad()
@pytest.mark.parametrize("name", ["softmax_attention", "liger", "strided_attention", "alisa_attention"])
def test_a_state_in_stairs_takes_the_bytes_said_and_is_exact_up_to_the_first(name: str):
    case = next(c for c in cases.quick("mixer", causal=True) if c.spec.op == name)
    torch.manual_seed(0)
    model = Model(network("native", case.spec)).eval().bfloat16()
    stairs = Model.from_weights(network("stairs16_8_4", case.spec), model.state_dict()).eval()
    ids = cases.network_inputs(model.arch, 90)
    states = [m.init_state(2, dtype=torch.bfloat16) for m in (model, stairs)]
    module, entry = stairs.part("blocks.0").mixer, operator("mixer", name)
    start = 0
    for length in (12, *[1] * 6, 40, 1, 30, 1):
        piece = ids[:, start : start + length]
        exact, states[0] = model(piece, state=states[0])
        found, states[1] = stairs(piece, state=states[1])
        off = float((found - exact).float().norm() / exact.float().norm())
        assert off == 0 if start <= 16 else off < 0.2
        start += length
        said = 4 * entry.state_bytes(module, start, 2, Format.of("stairs16_8_4"))
        assert said == sum(_bytes(states[1][f"blocks.{i}@0"]["mixer"]) for i in (0, 1))


def _bytes(state: Any) -> int:
    if isinstance(state, dict):
        return sum(map(_bytes, state.values()))
    return getattr(state, "nbytes", 0)


def test_rows_are_stored_by_attention_only_where_it_is_counted():
    assert why_invalid(network("zip8_4")) is None
    plain = cases.network(cases.Case("norm", OpSpec("rmsnorm"), cases.CAUSAL)).blocks[0].mixer
    reason = why_invalid(network("zip4_2", plain))
    assert (
        reason
        == "blocks.0: softmax_attention counts no attention, by which zip4_2 stores; int8 and int4 would do"
    )
    arch = network("native")
    quant = QuantPolicy((("q", Format.of("zip8_4")),))
    arch = replace(arch, blocks=tuple(replace(b, quant=quant) for b in arch.blocks))
    assert why_invalid(arch) == "blocks.0: q: zip8_4 is a format of states, not of weights"


def test_an_entry_that_counts_its_bytes_itself_keeps_its_state_native():
    assert keeps_rows(operator("mixer", "min_attention").state_bytes)
    assert not keeps_rows(operator("mixer", "mamba").state_bytes)
    assert not keeps_rows(lambda module, context_len, bytes_per_value: 0)
