"""GlassLM: a small decoder with grouped-query attention, rotary positions, SwiGLU and a tied head, in one npz file.

Its linear maps are stored as [in, out], its rotary pairs are adjacent channels. NAME.tokenizer.json beside NAME.npz
holds an alphabet and merges of byte-pair encoding over characters, which is written as a tokenizer.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from nas.errors import UsageError
from nas.importing.config import read_config
from nas.importing.parts import Converted, attention, below, dense, named, rmsnorm
from nas.importing.source import Source
from nas.importing.weights import Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
SPACE = "\u2581"
CHUNK = rf"\n|{SPACE}*[^{SPACE}\n]+|{SPACE}+"  # no merge crosses the border of two


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights
    d_model, num_heads = config.size("d_model"), config.size("n_heads")
    head_dim, norm = config.parts("d_model", "n_heads"), rmsnorm(config.number("eps", 1e-6))
    num_groups, d_ff = config.size("n_kv_heads"), 8 * d_model // 3
    config.parts("n_heads", "n_kv_heads")
    block = BlockSpec(
        mixer=attention(num_heads, head_dim, num_groups),
        ffn=OpSpec.of("swiglu", d_ff=d_ff),
        norm=norm,
        projection=dense(False),
    )
    num_layers, vocab_size = config.size("n_layers"), config.size("vocab_size")
    base = config.number("rope_base", 10000.0)
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=vocab_size, max_len=config.size("max_len")),
        d_model=d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec.of("rope", base=int(base) if base == int(base) else base, dim=head_dim),
        final_norm=norm,
        head=OpSpec.of("tied_head", vocab_size=vocab_size),
    )
    tensors = {
        "stem.weight": weights.take("E", vocab_size, d_model),
        "final_norm.weight": weights.take("norm_f.gamma", d_model),
    }
    for i in range(num_layers):
        tensors |= below(f"blocks.{i}", _layer(weights, f"blocks.{i}", d_model, num_groups * head_dim, d_ff))
    weights.done()
    path, harmless = source.path.with_suffix(".tokenizer.json"), frozenset(("init_std",))
    if not path.is_file():
        notes = (f"there is no {path.name} beside it: no text can be read for it",)
        return Converted(arch, tensors, notes, harmless=harmless)
    return Converted(arch, tensors, tokenizer=tokenizer_json(path, vocab_size), harmless=harmless)


def tokenizer_json(path: Path, vocab_size: int) -> str:
    """The same encoding as a file of the package tokenizers."""
    data = read_config(path).data
    alphabet, merges = data.get("alphabet"), data.get("merges")
    if not _texts(alphabet) or not isinstance(merges, list) or not all(_texts(m, 2) for m in merges):
        raise UsageError(f"{path}: it needs a list alphabet of texts, and a list merges of pairs of them")
    tokens = [*SPECIALS, *alphabet, *(a + b for a, b in merges)]
    if len(tokens) != vocab_size:
        raise UsageError(f"{path}: it has {len(tokens)} tokens, the model has vocab_size {vocab_size}")
    split = {"type": "Split", "pattern": {"Regex": CHUNK}, "behavior": "Isolated", "invert": False}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(tokens)}}
    described = {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces]},
        "pre_tokenizer": split,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "Fuse"}]},
        "model": model | {"merges": merges},
    }
    return json.dumps(described, ensure_ascii=False)


def _texts(data: Any, count: int | None = None) -> TypeGuard[list[str]]:
    return isinstance(data, list) and all(isinstance(t, str) for t in data) and count in (None, len(data))


def _layer(weights: Weights, theirs: str, d_model: int, d_kv: int, d_ff: int) -> dict[str, Tensor]:
    def linear(name: str, d_out: int, d_in: int) -> dict[str, Tensor]:
        return {"weight": weights.take(f"{theirs}.{name}", d_in, d_out).T.contiguous()}

    return named(
        mixer_norm_in={"weight": weights.take(f"{theirs}.norm1.gamma", d_model)},
        ffn_norm_in={"weight": weights.take(f"{theirs}.norm2.gamma", d_model)},
        mixer__q_proj=linear("attn.W_Q", d_model, d_model),
        mixer__k_proj=linear("attn.W_K", d_kv, d_model),
        mixer__v_proj=linear("attn.W_V", d_kv, d_model),
        mixer__o_proj=linear("attn.W_O", d_model, d_model),
        ffn__gate_proj=linear("ffn.W1", d_ff, d_model),
        ffn__up_proj=linear("ffn.W3", d_ff, d_model),
        ffn__down_proj=linear("ffn.W2", d_model, d_ff),
    )
