"""Each run of a stage has an MLP of its own behind the weights that all runs share."""

import torch
from torch.nn import functional as F

from searchspace.cost import cost
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload

DEFINING_TERM = ('of_run(f"recursion_{n}", tokens.repeat)', 'of_run(f"recursion_{n}", 0)')


def recursive(repeats: int) -> ArchSpec:
    """A shared block and the layer between its runs."""
    shared = BlockSpec(plain_attention(1, 2, 4), NONE, OpSpec("rmsnorm"), OpSpec.of("dense", bias=False))
    between = BlockSpec(NONE, OpSpec.of("recursion_mlp", d_ff=6), OpSpec("rmsnorm"), shared.projection)
    text, head = OpSpec.of("token_embedding", vocab_size=11, max_len=16), OpSpec.of("lm_head", vocab_size=11)
    return ArchSpec("causal_lm", text, 8, (shared, between), (StageSpec(2, 8, repeats=repeats),), head)


def test_a_recursion_is_its_runs_written_out():
    model, ids = Model(recursive(2)).double().eval(), torch.arange(9).unsqueeze(0)
    x, tokens = model.part("stem")(ids, Tokens())
    layer = model.part("blocks.1")
    for run in ("", "_run_1"):
        x, _ = model.part("blocks.0")(x, tokens)
        normed = F.rms_norm(x, (8,), layer.ffn_norm_in.weight, layer.ffn_norm_in.eps)
        up, down = (layer.get_parameter(f"ffn.recursion_{n}{run}.weight") for n in ("up", "down"))
        x = x + layer.get_parameter(f"ffn.recursion_scale{run}") * F.gelu(normed @ up.T) @ down.T
    torch.testing.assert_close(model.part("head")(x, tokens), model(ids)[0], rtol=1e-9, atol=1e-9)


def test_every_run_is_stored_and_computed_once():
    once, twice, thrice = (cost(recursive(n), Workload(seq_len=9)) for n in (1, 2, 3))
    assert twice.parameters - once.parameters == thrice.parameters - twice.parameters == 2 * 8 * 6 + 1
    assert twice.flops - once.flops == thrice.flops - twice.flops
