"""Operators that hand over to a kernel compute what they compute by torch: forward, gradient, token by token."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from searchspace import registry
from searchspace.kernels import dispatch
from searchspace.model import build_part
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.spec.arch import NONE, BlockSpec, OpSpec
from tests.searchspace.kernels.harness import Check, assert_as_accurate

T = 37
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 16}
SOFTMAX = HEADS | {"window": 9, "sinks": 2, "qk_norm": NONE, "score_bias": NONE, "temperature": "none"}
OPERATORS = {
    "window": ("mixer", OpSpec.of("softmax_attention", **SOFTMAX, normalizer=OpSpec("softmax"))),
    "strided": ("mixer", OpSpec.of("strided_attention", **HEADS, window=16, stride=2)),
    "swiglu": ("ffn", OpSpec.of("swiglu", d_ff=40)),
    "glu": ("ffn", OpSpec.of("glu", d_ff=40, activation=OpSpec("gelu"), hidden_norm=False)),
    "rmsnorm": ("norm", OpSpec("rmsnorm")),
    "layernorm": ("norm", OpSpec("layernorm")),
}
PLACEMENTS = [("pre", "rmsnorm"), ("post", "layernorm"), ("peri", "rmsnorm")]


def check(device: torch.device, slot: str, spec: OpSpec, is_padded: bool = False) -> None:
    module: Any = registry.build(slot, spec, BuildContext(d_model=32)).to(device)
    x = torch.randn(2, T, 32).to(device)
    valid = torch.ones(2, T, dtype=torch.bool, device=device)
    valid[1, :5] = False
    tokens = Tokens(valid=valid) if is_padded else Tokens()
    by_torch, by_kernel = (run(module, x, tokens, name) for name in dispatch.IMPLEMENTATIONS)
    torch.testing.assert_close(by_kernel, by_torch, rtol=1e-4, atol=1e-5)


def run(module: Any, x: Tensor, tokens: Tokens, implementation: str) -> tuple[Tensor, ...]:
    """The output and the gradients of the input and of every weight."""
    leaf = x.detach().requires_grad_()
    with dispatch.use(implementation):
        y = module(leaf, tokens)[0]
        return y, *torch.autograd.grad(y.square().sum(), (leaf, *module.parameters()))


def check_block(device: torch.device, placement: str, norm: str) -> None:
    """Its sums and the norms behind them run as one kernel."""
    ffn = OpSpec.of("swiglu", d_ff=40)
    spec = BlockSpec(OpSpec.of("short_conv", window=3), ffn, OpSpec(norm), placement=placement)
    module = build_part("block", spec, BuildContext(d_model=32))
    names = [name for name, _ in module.named_parameters()]

    def formula(x: Tensor, *weights: Tensor) -> tuple[Tensor]:
        return (functional_call(module, dict(zip(names, weights, strict=True)), (x, Tokens()))[0],)

    given = [torch.randn(2, T, 32), *(w.detach() for w in module.parameters())]
    assert_as_accurate(formula, formula, given, torch.float32, device)


def decode(device: torch.device, spec: OpSpec) -> None:
    """A prefix, then token by token."""
    module: Any = registry.build("mixer", spec, BuildContext(d_model=32)).to(device)
    x = torch.randn(2, T, 32).to(device)
    with torch.no_grad():
        expected = module(x, Tokens())[0]
        with dispatch.use("triton"):
            state: State | None = module.init_state(2, device, torch.float32)
            outputs = []
            for part in (slice(0, T - 3), *(slice(i, i + 1) for i in range(T - 3, T))):
                y, state = module(x[:, part], Tokens(), state)
                outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)


CHECKS = [
    *(
        Check(
            f"operator {name}", partial(check, slot=slot, spec=spec), "slow" if slot == "mixer" else "quick"
        )
        for name, (slot, spec) in OPERATORS.items()
    ),
    *(
        Check(f"block {placement} {norm}", partial(check_block, placement=placement, norm=norm))
        for placement, norm in PLACEMENTS
    ),
    *(
        Check(f"operator {name} padded", partial(check, slot="mixer", spec=spec, is_padded=True), "slow")
        for name, (slot, spec) in OPERATORS.items()
        if slot == "mixer"
    ),
    *(
        Check(f"operator {name} decodes", partial(decode, spec=spec))
        for name, (slot, spec) in OPERATORS.items()
        if slot == "mixer"
    ),
]
