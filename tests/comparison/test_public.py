"""Operators beside public implementations: `make test-public`, which installs fla-core and transformers.

Where a convention differs, the test says how and brings one to the other: fla scales queries by 1 / sqrt(K), this
project leaves that to the projections; Swin reads a cell column by column, this project row by row; Llama's RoPE turns
channels i and i + K / 2, this project neighbours.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.primitives.convolution import convolved
from searchspace.primitives.heads import rotate
from searchspace.primitives.rotary import frequencies
from searchspace.primitives.scores import HeadSizes
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import D, activations, attention, build, output

pytestmark = [pytest.mark.public, pytest.mark.filterwarnings("ignore")]
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": 4}
T = 37  # no multiple of a chunk


def public(module: str, name: str) -> Any:
    pytest.importorskip(module.split(".")[0])
    return getattr(import_module(module), name)


def fla(path: str, name: str) -> Any:
    return public(f"fla.ops.{path}.naive", name)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """fla's references compute in float32."""
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-4, atol=1e-5)


def test_gated_linear_attention() -> None:
    module, x = build("mixer", "gated_linear_attention", **HEADS, init_rank=0), activations(T)
    q, k, v, log_a = module.gated(x, Tokens())
    o, _ = fla("gla", "naive_recurrent_gla")(2.0 * q.squeeze(3), k, v, log_a)
    assert_near(output(module, x), module.output(o.unsqueeze(3), x))


@pytest.mark.parametrize("op", ["tnl", "lightning_attention"])
def test_fixed_decay(op: str) -> None:
    module, x = build("mixer", op, True, **HEADS, **first_items(op)), activations(T)
    q, k, v, log_a = module.decayed(x, Tokens())
    recurrence = fla("simple_gla", "naive_recurrent_simple_gla")
    o, _ = recurrence(q.squeeze(3), k, v, log_a.squeeze(-1), scale=1.0)
    assert_near(output(module, x), module.output(o.unsqueeze(3), x))


def test_retention_is_linear_attention_with_its_decays() -> None:
    from searchspace.primitives.recurrence import recurrence_chunked

    q, k, v = (torch.randn(2, T, 4, 8) for _ in range(3))
    log_a = torch.log(1 - 2.0 ** (-5.0 - torch.arange(4.0))).expand(2, T, 4).unsqueeze(-1)
    o, _ = recurrence_chunked(q.unsqueeze(3) / math.sqrt(8), k, v, log_a)
    theirs = fla("retention", "naive_retention")(*(t.transpose(1, 2) for t in (q, k, v)))
    assert_near(o.squeeze(3), theirs.transpose(1, 2))


@pytest.mark.parametrize("op", ["deltanet", "gated_deltanet"])
def test_delta_rule(op: str) -> None:
    module, x = build("mixer", op, True, **HEADS, **first_items(op)), activations(T)
    mixed = [convolved(conv, projection(x), Tokens()) for _, projection, conv in module.paths()]
    q, k, v = module.unit_keys(*mixed)
    beta, log_a = module.gates(x, Tokens())
    q = 2.0 * q.squeeze(3)
    if log_a is None:
        turned = [t.transpose(1, 2) for t in (q, k, v, beta)]
        o = fla("delta_rule", "delta_rule_recurrence")(*turned)[0].transpose(1, 2)
    else:
        o, _ = fla("gated_delta_rule", "naive_recurrent_gated_delta_rule")(q, k, v, beta, log_a.squeeze(-1))
    assert_near(output(module, x), module.output(o.unsqueeze(3), x))


def first_items(op: str) -> dict[str, Any]:
    """The first value of every item that HEADS does not set."""
    choices: dict[str, Any] = dict(registry.operator("mixer", op).choices)
    return {name: domain[0] for name, domain in choices.items() if name not in HEADS}


def test_linear_attention() -> None:
    module, x = (
        build("mixer", "linear_attention", **HEADS, feature_map=OpSpec("elu_plus_one")),
        activations(T),
    )
    q, k, v = module.features(x, Tokens())
    o, _ = fla("linear_attn", "naive_recurrent_linear_attn")(q.squeeze(3), k, v, scale=1.0, normalize=True)
    assert_near(output(module, x), module.merge_heads(o.to(x.dtype)))


def test_based() -> None:
    module, x = build("mixer", "linear_attention", **HEADS, feature_map=OpSpec("taylor")), activations(T)
    q, k, v = (t.transpose(1, 2) for t in module.queries_keys_values(x))
    o = fla("based", "naive_parallel_based")(q, k, v)
    assert_near(output(module, x), module.merge_heads(o.transpose(1, 2)))


@pytest.mark.parametrize("window", [0, 5])
def test_softmax_attention_with_groups_and_window(window: int) -> None:
    module, x = attention(heads_per_group=2, window=window), activations(T)
    q, k, v = module.queries_keys_values(x)
    o = fla("attn", "naive_parallel_attn")(q, k, v, window_size=window or None)[0]
    assert_near(output(module, x), module.merge_heads(o))


def test_rope() -> None:
    turn = public("transformers.models.llama.modeling_llama", "apply_rotary_pos_emb")
    q, K = torch.randn(2, T, 3, 8).double(), 8
    angles = torch.arange(T).double().unsqueeze(-1) * frequencies(10_000, K, q.device)
    halves = torch.cat((q[..., 0::2], q[..., 1::2]), -1).transpose(1, 2)
    twice = torch.cat((angles, angles), -1).unsqueeze(0)
    theirs, _ = turn(halves, halves, twice.cos(), twice.sin())
    theirs = torch.stack(theirs.transpose(1, 2).chunk(2, -1), -1).flatten(-2)
    assert_near(rotate(q, Tokens(rotary=(angles.cos(), angles.sin()))), theirs)


def test_alibi() -> None:
    """Bloom's bias grows with the key instead of falling with the distance: rows differ by a constant."""
    H = 4
    heads = HeadSizes(G=H, R=1, K=8)
    ours = registry.build("score_bias", OpSpec("alibi"), BuildContext(D, layout=Layout(64)), heads)
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
    theirs = public("transformers.models.bloom.modeling_bloom", "build_alibi_tensor")(
        torch.ones(1, T, dtype=torch.long), H, torch.float32
    )
    visible = distance < 0
    a = ours(distance).float().masked_fill(visible, -torch.inf).softmax(-1)
    b = theirs.expand(H, T, T).masked_fill(visible, -torch.inf).softmax(-1)
    assert_near(a, b)


def test_rmsnorm() -> None:
    module = build("norm", "rmsnorm")
    theirs = public("transformers.models.llama.modeling_llama", "LlamaRMSNorm")(D, eps=1e-6)
    module.weight.data.normal_()
    theirs.weight.data = module.weight.data.float()
    x = activations()
    assert_near(output(module, x), theirs(x))


def test_swiglu() -> None:
    module, x = build("ffn", "swiglu", d_ff=20), activations()
    config = public("transformers", "LlamaConfig")(hidden_size=D, intermediate_size=20, num_attention_heads=2)
    theirs = public("transformers.models.llama.modeling_llama", "LlamaMLP")(config).double()
    for name in ("up_proj", "gate_proj", "down_proj"):
        getattr(theirs, name).weight.data = getattr(module, name).weight.data
    assert_near(output(module, x), theirs(x))


def test_pooling() -> None:
    module, x = build("mixer", "pooling", causal=False, window=3), activations(64)
    theirs = public("transformers.models.poolformer.modeling_poolformer", "PoolFormerPooling")(3)
    grid = x.transpose(1, 2).unflatten(2, (8, 8))
    y = module(x, Tokens(grid=(8, 8)))[0]
    assert_near(y, theirs(grid).flatten(2).transpose(1, 2))


def test_patch_merge() -> None:
    context = BuildContext(D, causal=False, layout=Layout(64, (8, 8)), d_next=2 * D)
    module: Any = registry.build("transition", OpSpec("patch_merge"), context).double()
    theirs = public("transformers.models.swin.modeling_swin", "SwinPatchMerging")(D).double()
    columns_first = torch.arange(4 * D).view(2, 2, D).transpose(0, 1).flatten()
    theirs.reduction.weight.data = module.merge_proj.weight.data[:, columns_first]
    x = activations(64)
    assert_near(module(x, Tokens(grid=(8, 8)))[0], theirs(x, (8, 8)))


def test_gelu_mlp() -> None:
    """This project's GELU is the tanh form, as in GPT-2; BERT's is the exact one."""
    module, x = build("ffn", "mlp", d_ff=20, activation=OpSpec("gelu")), activations()
    theirs = public("transformers.activations", "ACT2FN")["gelu_new"]
    y = F.linear(theirs(F.linear(x, module.up_proj.weight)), module.down_proj.weight)
    assert_near(output(module, x), y)
