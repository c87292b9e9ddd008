"""GlassLM: a small decoder with grouped-query attention, rotary positions, SwiGLU and a tied head, in one npz file.

Its linear maps are stored as [in, out], its rotary pairs are adjacent channels.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.parts import Converted, attention, below, dense, named, rmsnorm
from nas.importing.source import Source, Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights
    d_model, num_heads = config.size("d_model"), config.size("n_heads")
    head_dim, norm = d_model // num_heads, rmsnorm(config.number("eps", 1e-6))
    block = BlockSpec(
        mixer=attention(num_heads, head_dim, config.size("n_kv_heads")),
        ffn=OpSpec.of("swiglu", d_ff=8 * d_model // 3),
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
    tensors = {"stem.weight": weights.take("E"), "final_norm.weight": weights.take("norm_f.gamma")}
    for i in range(num_layers):
        tensors |= below(f"blocks.{i}", _layer(weights, f"blocks.{i}"))
    weights.done()
    return Converted(arch, tensors, ("its tokenizer is of a kind of its own and stays behind",))


def _layer(weights: Weights, theirs: str) -> dict[str, Tensor]:
    def linear(name: str) -> dict[str, Tensor]:
        return {"weight": weights.take(f"{theirs}.{name}").T.contiguous()}

    return named(
        mixer_norm_in={"weight": weights.take(f"{theirs}.norm1.gamma")},
        ffn_norm_in={"weight": weights.take(f"{theirs}.norm2.gamma")},
        mixer__q_proj=linear("attn.W_Q"),
        mixer__k_proj=linear("attn.W_K"),
        mixer__v_proj=linear("attn.W_V"),
        mixer__o_proj=linear("attn.W_O"),
        ffn__gate_proj=linear("ffn.W1"),
        ffn__up_proj=linear("ffn.W3"),
        ffn__down_proj=linear("ffn.W2"),
    )
