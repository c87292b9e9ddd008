"""Writes a network whose blocks are all the same Llama block as a folder that transformers loads.

    AutoModelForCausalLM.from_pretrained(folder)

Rotary positions rotate pairs of adjacent channels here, but pairs of channels from both halves of a head in
transformers, so the rows of query and key maps are permuted. With `dim` channels in the space's widest heads, a head of
K channels has the frequencies base^(-2 i / dim), which in transformers is a base of base^(K / dim).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import UsageError
from nas.export.graph import Run
from searchspace import registry
from searchspace.model import Model
from searchspace.ops.norm.rmsnorm import EPS
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec

SIZES = ("num_groups", "heads_per_group", "head_dim")
PLAIN = {
    "window": 0,
    "sinks": 0,
    "normalizer": OpSpec("softmax"),
    "qk_norm": NONE,
    "score_bias": NONE,
    "temperature": "none",
    "keys": "own",
}


def why_not_llama(arch: ArchSpec) -> str | None:
    """A sentence on why the network is no Llama, naming the first such block; None if it is one."""
    for slot, ops in (
        ("stem", ["token_embedding"]),
        ("position", ["rope"]),
        ("head", ["lm_head", "tied_head"]),
    ):
        found = getattr(arch, slot).op
        if found not in ops:
            return f"it has the {slot} {found}, not {' or '.join(ops)}"
    for item, off in (("scaling", "none"), ("local_base", 0)):
        if arch.position.get(item, off) != off:
            return f"its rotary positions have {item} {arch.position[item]}, not {off}"
    if arch.head.get("softcap"):
        return f"its logits have softcap {arch.head['softcap']}"
    if arch.head.get("bias"):
        return "its head has a bias"
    (stage, *more) = arch.stages
    if more or stage.enter != NONE or stage.leave != NONE or stage.repeats > 1:
        return "its blocks are not one plain stage that runs once"
    if arch.final_norm.op != "rmsnorm":
        return f"its final norm is {arch.final_norm}, not rmsnorm"
    first: tuple[int, BlockSpec] | None = None
    for i, block in enumerate(arch.blocks):
        if not block.is_active:
            continue
        reason = _why_not_plain(block, arch.final_norm)
        if reason is not None:
            return f"block {i} {reason}"
        if first is not None and block != first[1]:
            return f"block {i} differs from block {first[0]} in its sizes"
        first = first or (i, block)
    return None if first else "it has no blocks"


def _why_not_plain(block: BlockSpec, final_norm: OpSpec) -> str | None:
    for slot, op in (("mixer", "softmax_attention"), ("ffn", "swiglu")):
        found = getattr(block, slot).op
        if found != op:
            return f"has the {slot} {found}, not {op}"
    reason = why_not_plain_attention(block.mixer)
    if reason is not None:
        return f"has {reason}"
    if block.norm != final_norm:
        return f"has the norm {block.norm}, but the final norm is {final_norm}"
    if block.projection.op != "dense" or not isinstance(block.projection["bias"], bool):
        return f"has the projection {block.projection}, not dense with a bias in all maps or in none"
    if block.placement != "pre" or not block.quant.is_native:
        return "is quantized or does not have its norms before its sublayers"
    return None


def why_not_plain_attention(mixer: OpSpec) -> str | None:
    """Why a softmax attention differs from plain grouped-query attention; None if it does not."""
    options = registry.operator("mixer", mixer.op).options
    plain = PLAIN | {name: values[0] for name, values in options.items()}
    for item, value in mixer.items:
        if item not in SIZES and value != plain.get(item):
            return f"attention with {item} {value}, not {plain.get(item, 'without')}"
    return None


def write_llama(model: Model, folder: Path) -> Run:
    """Write config and weights to `folder`; returns the map from ids [B, T] to logits [B, T, W] of transformers.

    Raises UsageError if the network is no Llama or transformers is not installed.
    """
    reason = why_not_llama(model.arch)
    if reason is not None:
        raise UsageError(f"--format transformers: {reason}; use --format onnx or torch-export")
    try:
        from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise UsageError(
            "--format transformers: transformers is not installed; run `pip install transformers`"
        ) from None
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(**llama_config(model.arch)))
    llama.load_state_dict(_weights(model.arch, dict(model.state_dict())), assign=True)
    llama.generation_config.eos_token_id = None  # the default id is an ordinary byte here and would end texts
    llama.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()  # type: ignore[no-untyped-call]

    def run(inputs: Tensor) -> Tensor:
        logits: Tensor = loaded(inputs, use_cache=False).logits
        return logits

    return run


def llama_config(arch: ArchSpec) -> dict[str, Any]:
    """The fields of a LlamaConfig for `arch`."""
    blocks = [b for b in arch.blocks if b.is_active]
    mixer, bias = blocks[0].mixer, bool(blocks[0].projection["bias"])
    base, dim, K = arch.position["base"], arch.position["dim"], mixer["head_dim"]
    return {
        "vocab_size": arch.stem["vocab_size"],
        "hidden_size": arch.d_model,
        "intermediate_size": blocks[0].ffn["d_ff"],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": mixer["num_groups"] * mixer["heads_per_group"],
        "num_key_value_heads": mixer["num_groups"],
        "head_dim": K,
        "max_position_embeddings": arch.stem["max_len"],
        "rms_norm_eps": arch.final_norm.get("eps", EPS),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(base ** (K / dim))},
        "attention_bias": bias,
        "mlp_bias": bias,
        "tie_word_embeddings": arch.head.op == "tied_head",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _weights(arch: ArchSpec, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors `ours` by their names in transformers."""
    found = {
        "model.embed_tokens.weight": ours["stem.weight"],
        "model.norm.weight": ours["final_norm.weight"],
        "lm_head.weight": ours.get("head.proj.weight", ours["stem.weight"]),
    }
    places = {"mixer": "self_attn", "ffn": "mlp"}
    norms = {"mixer_norm_in": "input_layernorm", "ffn_norm_in": "post_attention_layernorm"}
    layers = [i for i, block in enumerate(arch.blocks) if block.is_active]
    for layer, i in enumerate(layers):
        for name, tensor in ours.items():
            if name.startswith(f"blocks.{i}."):
                _, _, part, *rest = name.split(".")
                if rest[0] in ("q_proj", "k_proj"):
                    tensor = _halves(tensor, arch.blocks[i].mixer["head_dim"])
                theirs = norms.get(part) or places[part]
                found[".".join(("model.layers", str(layer), theirs, *rest))] = tensor
    return found


def _halves(rows: Tensor, K: int) -> Tensor:
    """Permute rows [H K, ...] so that the pairs of adjacent channels of each head become pairs across its halves."""
    return rows.view(-1, K // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
