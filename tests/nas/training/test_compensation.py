"""Channels that a map is no longer given are made up for by the others: least squares, by an independent solver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import nas.training.compensation as compensation
from nas.importing.space import space_data
from nas.setup.imported_supernet import filled
from nas.training.compensation import Compensation, moments
from searchspace.load import resolve
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.supernet.supernet import Supernet

D, W, F = 16, 20, 12
BLOCK = BlockSpec(
    plain_attention(4, 1, 4, OpSpec("none")),
    OpSpec.of("mlp", d_ff=F, activation=OpSpec("gelu_erf")),
    norm=OpSpec.of("layernorm", eps=1e-6),
    projection=OpSpec.of("dense", bias=True),
)
ARCH = ArchSpec(
    task="masked_lm",
    stem=OpSpec.of("token_embedding", vocab_size=W, max_len=16),
    d_model=D,
    blocks=(BLOCK,),
    stages=(StageSpec(1, D),),
    position=OpSpec("learned"),
    head=OpSpec.of("mlm_head", vocab_size=W),
)
VALID = torch.arange(8) < torch.tensor([[8], [5]] * 20)
INPUTS = torch.randint(0, W, (40, 8), generator=torch.Generator().manual_seed(0))


def store() -> Supernet:
    torch.manual_seed(1)
    model, space = Model(ARCH).eval(), resolve(space_data(ARCH, "tiny", "plays"))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return filled(space, model, model.state_dict())


def given(model: Model, path: str) -> Tensor:
    """The inputs of a map at real tokens [n, K]."""
    found: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model(INPUTS, Tokens(valid=VALID))
    handle.remove()
    return found[0][VALID].detach().double()


@pytest.mark.parametrize("path", ["blocks.0.mixer.q_proj", "blocks.0.ffn.up_proj"])
def test_a_narrower_map_is_the_least_squares_fit_to_the_whole_one(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensation, "RIDGE", 1e-9)
    made, kept = store(), D // 2
    whole = made.extract(ARCH)
    arch = replace(ARCH, d_model=kept, stages=(StageSpec(1, kept),))
    found = Compensation(made, moments(whole, [(INPUTS, Tokens(valid=VALID))])).weights(arch)
    x = given(whole, path)
    part: Any = whole.get_submodule(path)
    wanted = x @ part.weight.double().mT + part.bias.double()
    scale = 1 / x.norm(dim=1, keepdim=True)  # each token counts relative to its inputs
    design = torch.cat([x[:, :kept], torch.ones(len(x), 1)], 1) * scale
    solved = torch.linalg.lstsq(design, wanted * scale).solution
    torch.testing.assert_close(found[f"{path}.weight"].double(), solved[:-1].mT, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[f"{path}.bias"].double(), solved[-1], rtol=1e-3, atol=1e-4)


def test_what_is_not_cut_stays_as_it_is() -> None:
    made = store()
    found = Compensation(made, moments(made.extract(ARCH), [(INPUTS, Tokens(valid=VALID))])).weights(ARCH)
    for name, tensor in made.weights(ARCH).items():
        assert torch.equal(found[name], tensor), name
