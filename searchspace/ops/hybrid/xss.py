"""The XSS block of Mamba YOLO: a local convolution, then a scan of the image in several directions.

    l = W_2 gelu(W_1 (w * rms(conv(x))))          y = l + cross_scan(v * rms(x + l))

"Mamba YOLO: A Simple Baseline for Object Detection with State Space Model", Wang et al., arXiv:2406.05835. A norm of
each token replaces the batch norm of the local part; the gated convolution after the scan is left to the block's ffn.
Shapes: B batch, T = rows * columns, D model width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import cross_scan
from searchspace.primitives.axes import Axis, AxisModule, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.cross_scan import CrossScan
from searchspace.registry import ODD, Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class XSS(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model = Axis.of(D=context.d_model)
        self.local_conv = DepthwiseConv(d_model, spec["kernel_size"], causal=False)
        self.declare("local_mix_norm_weight", (d_model,), ones)
        self.local_up_proj = context.linear("up", d_model, d_model)
        self.local_down_proj = context.linear("down", d_model, d_model)
        self.declare("scan_norm_weight", (d_model,), ones)
        self.cross_scan = CrossScan(context, spec["expand"], spec["num_states"], spec["directions"])

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        local = self.mixed(self.local_conv(x, tokens)[0])
        return local + self.cross_scan(self.between(x, local), tokens), None

    def mixed(self, x: Tensor) -> Tensor:
        """The channel mixing after the local convolution: x [B, T, D] -> [B, T, D]."""
        x = F.rms_norm(x, x.shape[-1:], self.local_mix_norm_weight, EPS)
        return self.local_down_proj(F.gelu(self.local_up_proj(x)))

    def between(self, x: Tensor, local: Tensor) -> Tensor:
        """x and the local part's output, [B, T, D] -> the input of the scans [B, T, D]."""
        return F.rms_norm(x + local, x.shape[-1:], self.scan_norm_weight, EPS)


def reference(module: XSS, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    local = module.mixed(convolved(module.local_conv, x, tokens))
    return local + cross_scan.cross_scan_reference(module.cross_scan, module.between(x, local), tokens)


def flops(module: XSS, T: int, S: int) -> int:
    return module.local_conv.flops(T) + module.cross_scan.flops(T)


OPERATOR = Operator(
    name="xss",
    slot="mixer",
    paper="Wang et al. 2024, arXiv:2406.05835",
    build=XSS,
    ranges={"directions": cross_scan.DIRECTIONS, "expand": Range(1, 16), "kernel_size": ODD},
    reference=reference,
    choices={**cross_scan.CHOICES, "kernel_size": (3, 5)},
    flops=flops,
    causal=False,
    needs_2d=True,
    quantizable=("up", "gate", "down"),
    catalogue=(100,),
    complexity="4 T C N",
)
