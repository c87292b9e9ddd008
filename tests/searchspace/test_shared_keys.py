"""Blocks that take keys and values, or a part of the values, from an earlier block of their stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import Format, OpSpec, QuantPolicy
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid
from tests.searchspace.archs import BLOCK, decoder

FURTHER_TERMS = (
    ("torch.lerp(v, first,", "torch.lerp(first, v,", "searchspace/ops/attention/softmax_attention.py"),
    (
        "k, v, places, valid = lent",
        "v, k, places, valid = lent",
        "searchspace/ops/attention/softmax_attention.py",
    ),
)
OWN = plain_attention(2, 2, 4)


def attention(**items: Any) -> OpSpec:
    return OpSpec.of(OWN.op, **dict(OWN.items) | items)


def network(*mixers: OpSpec) -> Any:
    """In float64 with random weights."""
    torch.manual_seed(0)
    arch = decoder(*(replace(BLOCK, mixer=mixer) for mixer in mixers))
    assert why_invalid(arch) is None
    model = Model(arch).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def ids(T: int = 11) -> Tensor:
    return torch.randint(0, 11, (2, T))


def mixer_runs(model: Any, inputs: Tensor) -> dict[int, tuple[Tensor, Tokens, Tensor]]:
    """What each mixer was given, and its output."""
    found: dict[int, Any] = {}
    for i in range(len(model.arch.blocks)):
        part = model.part(f"blocks.{i}.mixer")
        part.register_forward_hook(lambda _, given, out, i=i: found.__setitem__(i, (*given[:2], out[0])))
    model(inputs)
    return found


def plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [B, T, H, K] on k and v [B, T, G, K], pair by pair."""
    k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], 2) for t in (k, v))
    scores = torch.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
    T = q.shape[1]
    weights = scores.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshk->bthk", weights, v)


@torch.no_grad()
def test_a_borrowing_block_sees_the_keys_and_values_of_the_last_block_like_it():
    borrowing = attention(keys="earlier", rotary="none")
    model = network(attention(rotary="none"), attention(window=4), borrowing)
    runs = mixer_runs(model, ids())
    lender, borrower = (model.part(f"blocks.{i}.mixer") for i in (0, 2))
    _, k, v = lender.queries_keys_values(runs[0][0])
    q = borrower.q_proj(runs[2][0]).unflatten(2, (4, 4))
    torch.testing.assert_close(runs[2][2], borrower.merge_heads(plainly(q, k, v)), rtol=1e-9, atol=1e-9)
    assert not {n for n, _ in borrower.named_parameters()} & {"k_proj.weight", "v_proj.weight"}


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 4])
def test_decoding_keeps_borrowed_keys_once(window: int):
    own, borrowing = attention(window=window), attention(window=window, keys="earlier")
    model, inputs = network(own, borrowing, own, borrowing), ids()
    whole, found, start = model(inputs)[0], [], 0
    state = model.init_state(2)
    for length in (3, 1, 4, 1, 1, 1):
        y, state = model(inputs[:, start : start + length], state=state)
        found.append(y)
        start += length
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-9, atol=1e-9)
    held = sum(
        t.nbytes
        for name in ("blocks.0@0", "blocks.2@0")
        for t in state[name]["mixer"].values()
        if isinstance(t, Tensor)
    )
    assert not {"blocks.1@0", "blocks.3@0"} & set(state)
    said = cost(model.arch, Workload(phase="decode", batch_size=2, context_len=10, dtype="float64"))
    assert said.state_bytes == held


@torch.no_grad()
def test_packed_sequences_borrow_their_own_keys():
    model = network(attention(), attention(keys="earlier"))
    inputs = ids(9)
    packed = model(torch.cat((inputs[0, :5], inputs[1])).unsqueeze(0), Tokens(offsets=(0, 5, 14)))[0]
    alone = torch.cat((model(inputs[:1, :5])[0], model(inputs[1:])[0]), 1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_nothing_is_left_for_later_blocks_where_none_borrows():
    """It would keep keys and values in memory for the rest of the stage."""
    assert mixer_runs(network(OWN, OWN), ids())[1][1].shared is None
    assert mixer_runs(network(OWN, attention(keys="earlier")), ids())[1][1].shared


def test_a_block_without_a_lender_is_refused_with_what_it_lacks():
    borrowing = attention(keys="earlier")
    for mixers in ((borrowing, OWN), (attention(window=4), borrowing), (attention(head_dim=8), borrowing)):
        reason = why_invalid(decoder(*(replace(BLOCK, mixer=mixer) for mixer in mixers))) or ""
        for what in ("blocks.", "no block before it in its stage has the keys that it borrows", "head_dim=4"):
            assert what in reason
    stored = replace(BLOCK, mixer=borrowing, quant=QuantPolicy(state=Format.of("int8")))
    assert "keeps no state to store as int8" in (
        why_invalid(decoder(replace(BLOCK, mixer=OWN), stored)) or ""
    )


def test_a_space_searches_what_its_blocks_borrow(tmp_path: Any):
    """Blocks that borrow, in a space like any other: valid architectures, each like its own extracted network."""
    from searchspace.sampling import sample
    from searchspace.spec.genome import Encoding
    from searchspace.supernet.supernet import Supernet

    (path := tmp_path / "space.toml").write_text(SPACE)
    space = load_space(str(path))
    archs = sample(Encoding(space), 6, seed=0, workload=Workload())
    assert any(b.mixer["keys"] == "earlier" for arch in archs for b in arch.blocks)
    supernet, inputs = Supernet(space), ids(8)
    for arch in archs[:3]:
        expected = supernet.forward(arch, inputs, training=False)
        torch.testing.assert_close(supernet.extract(arch)(inputs)[0], expected, rtol=1e-5, atol=1e-5)


SPACE = """
name = "borrowing"
task = "causal_lm"
data = "plays"
d_model = 16
position = "rope"
stem = {op = "token_embedding", vocab_size = 16, max_len = 64}
head = {op = "lm_head", vocab_size = 16}

[[stages]]
num_blocks = 3

[blocks]
mixer = ["softmax_attention"]
ffn = [{op = "swiglu", d_ff = 16}]
placement = ["pre", "parallel"]

[operators.rope]
dim = 8
local_base = 100
scaling = ["none", "yarn"]
factor = [2.0, 4.0]
original_len = 64

[operators.softmax_attention]
num_groups = 2
heads_per_group = 1
head_dim = 8
window = 0
sinks = 0
normalizer = "softmax"
qk_norm = "none"
score_bias = "none"
temperature = "none"
keys = ["own", "earlier"]
rotary = ["global", "local", "none"]
rotary_share = [0.5, 1.0]
output_gate = ["none", "element", "head"]
sink_logit = [false, true]
logit_softcap = [0.0, 30.0]
"""


@torch.no_grad()
def test_values_are_mixed_with_those_of_the_first_block():
    mixing = attention(value_residual=True, rotary="none")
    model = network(mixing, OWN, mixing)
    runs = mixer_runs(model, ids())
    first, last = (model.part(f"blocks.{i}.mixer") for i in (0, 2))
    q, k, v = last.queries_keys_values(runs[2][0])
    v1 = first.queries_keys_values(runs[0][0])[2]
    w = last.value_mix.view(1, 1, 2, 1)
    expected = F.linear(plainly(q, k, (1 - w) * v + w * v1).flatten(2), last.o_proj.weight)
    torch.testing.assert_close(runs[2][2], expected, rtol=1e-9, atol=1e-9)
