"""Recursion MLP: a separate MLP for each run of a repeated stage, between blocks whose weights all runs share.

    y = s_r W_down_r act(W_up_r x)          r the run of the stage, s_r a learned factor

The non-linear projection of Shen et al., "Sliced Recursive Transformer", arXiv:2111.05297: after every pass through the
shared weights follows a light layer that is not shared, so that the passes differ. It is the ffn of a block without a
mixer, the last of its stage: x + y, with x after the block's norm, which all runs share; the paper has a norm per run.
Hidden widths are one or two times the model width. In a stage with a single run it is one MLP. The published learned
factors of the residual stream, in this layer and in the blocks, are left out: blocks add the outputs of their sublayers
unscaled, as in every other design here. Shapes: x [B, T, D], hidden [B, T, F].
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.axes import Axis, AxisModule, constant
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.norms import of_run
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class RecursionMLP(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        start = constant(1 / math.sqrt(2 * context.num_layers))
        for run in range(context.repeats):
            self.add_module(of_run("recursion_up", run), context.linear("recursion_up", hidden, d_model))
            self.add_module(of_run("recursion_down", run), context.linear("recursion_down", d_model, hidden))
            self.declare(of_run("recursion_scale", run), (Axis.of(one=1),), start)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        up, down, scale = (
            getattr(self, of_run(f"recursion_{n}", tokens.repeat)) for n in ("up", "down", "scale")
        )
        return scale * down(F.gelu(up(x))), None


def reference(module: RecursionMLP, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    run = tokens.repeat
    up, down = (module.get_parameter(f"{of_run(f'recursion_{n}', run)}.weight") for n in ("up", "down"))
    hidden = F.gelu((x.unsqueeze(-2) * up).sum(-1))
    return module.get_parameter(of_run("recursion_scale", run)) * (hidden.unsqueeze(-2) * down).sum(-1)


def flops(module: RecursionMLP, T: int, S: int) -> int:
    """Return the FLOPs of one run, which computes only its own maps."""
    return sum(
        registry.operator("projection", part.kind).flops(part, T, S)
        for part in (module.recursion_up, module.recursion_down)
    )


OPERATOR = Operator(
    name="recursion_mlp",
    slot="ffn",
    paper="Sliced Recursive Transformer, Shen et al. 2021, arXiv:2111.05297",
    build=RecursionMLP,
    reference=reference,
    choices={"d_ff": (64, 128)},
    flops=flops,
    counts_projections=True,
    catalogue=(23,),
    complexity="T D F",
)
