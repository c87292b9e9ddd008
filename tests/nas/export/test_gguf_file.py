"""A Llama as GGUF: its tensors are those that the published conversion makes of the form for transformers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.errors import UsageError
from nas.export import formats
from nas.export.gguf_file import write_gguf
from nas.export.llama import write_llama
from searchspace.spec.arch import INACTIVE, OpSpec
from tests.nas.export.test_formats import BLOCK, ids, llama, trained_like


def test_the_file_holds_what_the_conversion_from_transformers_gives(tmp_path: Path) -> None:
    import gguf
    from safetensors.torch import load_file

    model = trained_like(llama(BLOCK, INACTIVE, BLOCK))
    run = write_gguf(model, tmp_path / "model.gguf")
    torch.testing.assert_close(run(ids()), model(ids())[0], rtol=0, atol=0)
    write_llama(model, tmp_path / "theirs")
    theirs, reader = (
        load_file(tmp_path / "theirs" / "model.safetensors"),
        gguf.GGUFReader(tmp_path / "model.gguf"),
    )
    stored = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
    heads = {"q": "head_count", "k": "head_count_kv"}
    for role, key in heads.items():
        count = int(reader.fields[f"llama.attention.{key}"].contents())
        for layer in range(2):
            rows = theirs[f"model.layers.{layer}.self_attn.{role}_proj.weight"]
            halves = rows.view(count, 2, rows.shape[0] // count // 2, rows.shape[1])
            assert torch.equal(
                stored[f"blk.{layer}.attn_{role}.weight"], halves.transpose(1, 2).reshape(rows.shape)
            )
    assert torch.equal(stored["blk.1.ffn_down.weight"], theirs["model.layers.1.mlp.down_proj.weight"])
    assert torch.equal(stored["token_embd.weight"], theirs["model.embed_tokens.weight"])
    assert int(reader.fields["llama.block_count"].contents()) == 2


def test_what_is_no_llama_is_refused() -> None:
    arch = llama(replace(BLOCK, ffn=OpSpec.of("mlp", d_ff=8, activation=OpSpec("gelu"))))
    with pytest.raises(UsageError, match=r"--format gguf: block 0 has the ffn mlp, .*--servable"):
        formats.check_formats(["gguf"], arch)
