"""Writes a Llama-like network as one GGUF file and reads it back tensor by tensor.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Its architecture `llama` rotates adjacent channels of
queries and keys, as this project does, so tensors are stored unchanged. The file has no tokenizer: programs have to
pass and receive token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import ArtifactError, UsageError
from nas.export.graph import Run
from nas.export.llama import llama_config, why_not_llama
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec

PARTS = {
    "mixer_norm_in": "attn_norm",
    "ffn_norm_in": "ffn_norm",
    "mixer.q_proj": "attn_q",
    "mixer.k_proj": "attn_k",
    "mixer.v_proj": "attn_v",
    "mixer.o_proj": "attn_output",
    "ffn.gate_proj": "ffn_gate",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
}
WHOLE = {"stem": "token_embd", "final_norm": "output_norm", "head.proj": "output"}
NO_TOKENIZER = "model.gguf has no tokenizer: programs that run it pass and receive token ids"


def write_gguf(model: Model, path: Path) -> Run:
    """Write the file; returns a function from ids [B, T] to logits [B, T, W] by the tensors read back from it.

    Raises UsageError if the network is no Llama or the package gguf is not installed, and ArtifactError if a tensor
    read back differs from the written one.
    """
    reason = why_not_llama(model.arch)
    if reason is not None:
        raise UsageError(f"--format gguf: {reason}; use --format onnx or torch-export")
    gguf = _package()
    config = llama_config(model.arch)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.parent.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("none")
    names = gguf_names(model.arch)
    for ours, tensor in model.state_dict().items():
        writer.add_tensor(names[ours], tensor.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return _read_back(gguf, model, path, names)


def gguf_names(arch: ArchSpec) -> dict[str, str]:
    """The name in GGUF of each of our tensors; GGUF numbers only the active blocks."""
    layers = [i for i, block in enumerate(arch.blocks) if block.is_active]
    places = dict(WHOLE)
    for layer, i in enumerate(layers):
        places |= {f"blocks.{i}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in PARTS.items()}
    return {
        f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in places.items() for kind in ("weight", "bias")
    }


def _read_back(gguf: Any, model: Model, path: Path, names: dict[str, str]) -> Run:
    stored = {t.name: torch.from_numpy(t.data.copy()) for t in gguf.GGUFReader(path).tensors}
    found = {ours: stored.get(names[ours]) for ours in model.state_dict()}
    for ours, tensor in model.state_dict().items():
        held = found[ours]
        if held is None or not torch.equal(held.view_as(tensor), tensor.float()):
            raise ArtifactError(f"{path}: tensor {names[ours]} is not what was written")
    again = Model.from_weights(model.arch, {n: t for n, t in found.items() if t is not None}).eval()

    def run(inputs: Tensor) -> Tensor:
        logits: Tensor = again(inputs)[0]
        return logits

    return run


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise UsageError("--format gguf: the package gguf is not installed; run `pip install gguf`") from None
    return gguf
