"""Attention beside the modules of transformers: the same weights give the same outputs.

Theirs turns channels i and i + K / 2 of a head by one angle, this project neighbours, so their rows of W_q and W_k are
taken in that order.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from searchspace.primitives.context import Tokens
from searchspace.primitives.rotary import frequencies, scaled_frequencies
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import attention, build, output

D, K, T = 12, 8, 7
SIZES: dict[str, Any] = {
    "hidden_size": D,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": K,
    "attention_bias": False,
    "attn_implementation": "eager",
}


def made(family: str, name: str, **config: Any) -> Any:
    """A module of a family in float64 with random weights; skipped where transformers is not installed."""
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    settings = getattr(transformers, f"{name}Config")(**(SIZES | config))
    module = getattr(modeling, f"{name}Attention")(settings, 0).double().eval()
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return module


def angles(width: int, share: int = 1) -> tuple[Tokens, tuple[Tensor, Tensor]]:
    """Positions 0 .. T - 1 in this project's terms, for heads of `width` * `share`, and in theirs, [1, T, width]."""
    turns = torch.arange(T).unsqueeze(-1) * frequencies(100.0, width, torch.device("cpu"))
    twice = torch.cat((turns, turns), -1).unsqueeze(0)
    tokens = build("position", "rope", base=100.0, dim=width * share)(
        twice, Tokens(positions=torch.arange(T))
    )[1]
    return tokens, (twice.cos(), twice.sin())


def neighbours(weight: Tensor, width: int, K: int = K) -> Tensor:
    """Rows of heads of K channels, the first `width` of them in the order of this project."""
    halves = torch.arange(width).view(2, -1).T.flatten()
    return weight.unflatten(0, (-1, K))[:, torch.cat((halves, torch.arange(width, K)))].flatten(0, 1)


def mask() -> Tensor:
    return torch.full((T, T), -torch.inf).triu(1).double()[None, None]


def pair(theirs: Any, width: int = K, **items: Any) -> Any:
    """This project's softmax attention with the weights of theirs."""
    ours = attention(num_groups=2, heads_per_group=2, head_dim=K, **items)
    weights = {f"{p}_proj.weight": getattr(theirs, f"{p}_proj").weight for p in "qkvo"}
    for name in ("q_proj.weight", "k_proj.weight"):
        weights[name] = neighbours(weights[name], width)
    ours.load_state_dict(weights, strict=False)
    return ours


@torch.no_grad()
def assert_same(ours: Any, theirs: Any, tokens: Tokens, positions: Any, tolerance: float = 1e-9) -> None:
    x = torch.randn(2, T, D, dtype=torch.float64)
    expected = theirs(x, positions, mask())[0]
    torch.testing.assert_close(output(ours, x, tokens), expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_sink_logits_are_those_of_gpt_oss() -> None:
    theirs, (tokens, positions) = made("gpt_oss", "GptOss"), angles(K)
    ours = pair(theirs, sink_logit=True)
    ours.sink_logits.copy_(theirs.sinks)
    assert_same(ours, theirs, tokens, tuple(t[..., : K // 2] for t in positions))


@torch.no_grad()
def test_the_gate_and_partial_rotary_positions_are_those_of_qwen3_next() -> None:
    theirs, (tokens, positions) = made("qwen3_next", "Qwen3Next"), angles(K // 2, share=2)
    both = theirs.q_proj.weight.unflatten(0, (-1, 2, K))
    for norm in (theirs.q_norm, theirs.k_norm):  # by 1 + w
        norm.weight.zero_()
    settings: dict[str, Any] = {
        "output_gate": "element",
        "rotary_share": 0.5,
        "qk_norm": OpSpec.of("qk_rms", eps=1e-6),
    }
    ours = attention(num_groups=2, heads_per_group=2, head_dim=K, **settings)
    weights = {f"{p}_proj.weight": getattr(theirs, f"{p}_proj").weight for p in "vo"}
    weights["q_proj.weight"] = neighbours(both[:, 0].flatten(0, 1), K // 2)
    weights["k_proj.weight"] = neighbours(theirs.k_proj.weight, K // 2)
    weights["gate_proj.weight"] = both[:, 1].flatten(0, 1)
    ours.load_state_dict(weights, strict=False)
    assert_same(ours, theirs, tokens, positions, 1e-6)  # its norm computes in float32


def test_the_logit_softcap_is_that_of_gemma2() -> None:
    theirs = made(
        "gemma2", "Gemma2", attn_logit_softcapping=1.5, query_pre_attn_scalar=K, num_hidden_layers=1
    )
    tokens, positions = angles(K)
    assert_same(pair(theirs, logit_softcap=1.5), theirs, tokens, positions, 1e-6)  # its softmax is in float32


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 6])
def test_latent_attention_is_that_of_deepseek_v3(rank: int | None) -> None:
    config = {
        "q_lora_rank": rank,
        "kv_lora_rank": 5,
        "qk_nope_head_dim": K,
        "qk_rope_head_dim": 4,
        "v_head_dim": K,
    }
    theirs = made("deepseek_v3", "DeepseekV3", **config, num_key_value_heads=4)
    sizes: dict[str, Any] = {"num_heads": 4, "head_dim": K, "kv_rank": 5, "query_rank": 6, "rope_dim": 4}
    ours = build("mixer", "latent_attention", **sizes, queries="compressed" if rank else "full")
    down, norm = theirs.kv_a_proj_with_mqa.weight.split((5, 4)), theirs.kv_a_layernorm.weight
    up = theirs.kv_b_proj.weight.unflatten(0, (4, 2 * K)).split(K, 1)
    queries = (theirs.q_b_proj if rank else theirs.q_proj).weight.unflatten(0, (4, K + 4)).split((K, 4), 1)
    name, turned = ("query_up_proj", "rotary_query_up_proj") if rank else ("q_proj", "rotary_query_proj")
    weights = {"latent_proj.weight": down[0], "rotary_key_proj.weight": down[1], "latent_norm_weight": norm}
    weights |= {"latent_keys": up[0].flatten(0, 1), "latent_values": up[1].flatten(0, 1)}
    weights |= {f"{name}.weight": queries[0].flatten(0, 1), f"{turned}.weight": queries[1].flatten(0, 1)}
    weights["o_proj.weight"] = theirs.o_proj.weight
    if rank:
        weights["query_latent_proj.weight"] = theirs.q_a_proj.weight
        weights["query_norm_weight"] = theirs.q_a_layernorm.weight
    ours.load_state_dict(weights)
    tokens, positions = angles(4)
    assert_same(ours, theirs, tokens, positions, 1e-6)  # its norms compute in float32


@torch.no_grad()
def test_differential_attention_is_that_of_diffllama() -> None:
    """Theirs has the first halves of all heads, then the second ones; here the halves take turns in each head."""
    half = K // 2
    theirs = made(
        "diffllama",
        "DiffLlama",
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=half,
        rms_norm_eps=1e-5,
    )
    ours = build("mixer", "differential_attention", num_groups=2, heads_per_group=2, head_dim=K)

    def turns(weight: Tensor) -> Tensor:
        first, second = neighbours(weight, half, half).unflatten(0, (2, -1, half))
        return torch.stack((first, second), 2).flatten(0, 2)

    values = theirs.v_proj.weight.unflatten(0, (2, -1, half)).transpose(0, 1).flatten(0, 2)
    weights = {"q_proj.weight": turns(theirs.q_proj.weight), "k_proj.weight": turns(theirs.k_proj.weight)}
    weights |= {"v_proj.weight": values, "o_proj.weight": theirs.o_proj.weight}
    weights |= {f"lambda_{n}": getattr(theirs, f"lambda_{n}") for n in ("q1", "k1", "q2", "k2")}
    ours.load_state_dict(weights, strict=False)
    tokens, positions = angles(half)
    assert_same(ours, theirs, tokens, positions, 1e-6)  # its lambda is in float32


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_scaled_rotary_frequencies_are_those_of_transformers(kind: str) -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    config = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=64,
        num_attention_heads=1,
        head_dim=64,
        max_position_embeddings=4096 * 8,
        rope_parameters={
            "rope_type": kind, "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 4096,
        },
    )  # fmt: skip
    theirs, scale = rope.ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    ours = build("position", "rope", base=10000, dim=64, scaling=kind, factor=8.0, original_len=4096)
    found = scaled_frequencies(10000, 64, kind, 8.0, 4096, torch.device("cpu"))
    torch.testing.assert_close(found.float(), theirs, rtol=1e-5, atol=0)  # theirs are in float32
    assert ours.scale == pytest.approx(scale, rel=1e-12)
