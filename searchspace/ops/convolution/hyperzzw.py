"""HyperZZW: features are multiplied by kernels as large as the image, and by themselves.

    y = W_o ((K(p) * x + gelu(W_l ((1 + W_s mean_t x) * C x))) * x)

K is an implicit kernel: a small network maps the place p = (row, column) to a value for each channel, independent of
the input. C is a depthwise convolution whose k x k taps come from a second such network, scaled per channel by the mean
of the tokens, so its kernel depends on the context. The networks multiply two Gabor filters,

    g_i(p) = sin(F_i p + f_i) * exp(-(s_i |p - m_i|)^2 / 2)        K(p) = W_k ((A g_1(p)) * g_2(p))

Zhang, "HyperZ.Z.W Operator Connects Slow-Fast Networks for Full Context Interaction", arXiv:2401.17948. This is the
global and the local branch with the elementwise gate; batch-instance norm, channel gates and the slow network's loss
are left out. Kernels depend only on weights, so computing them does not count as a cost of a sequence.
Shapes: x [B, T, D], places p [N, 2], filters g [N, P].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule, fan_in, normal
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec

FREQUENCY = 5.0


class ImplicitKernel(AxisModule):
    """Maps places [N, 2] to the values of each channel [N, D]."""

    def __init__(self, rank: int, d_model: int) -> None:
        super().__init__()
        features, plane = Axis.of(P=rank), Axis.of(plane=2)
        for i in (1, 2):
            self.declare(f"frequency_{i}", (features, plane), normal(FREQUENCY))
            self.declare(f"phase_{i}", (features,), normal(1.0))
            self.declare(f"sharpness_{i}", (features,), normal(1.0))
            self.declare(f"centre_{i}", (features, plane), normal(0.5))
        self.declare("mix", (features, Axis.of(Q=rank)), fan_in())
        self.declare("values", (Axis.of(D=d_model), features), fan_in(2.0))

    def forward(self, places: Tensor) -> Tensor:
        mixed = (self.filters(places, 1).unsqueeze(-2) * self.mix).sum(-1) * self.filters(places, 2)
        return (mixed.unsqueeze(-2) * self.values).sum(-1)

    def filters(self, places: Tensor, i: int) -> Tensor:
        """places [N, 2] -> filters [N, P]."""
        places = places.unsqueeze(-2)
        frequency, phase = getattr(self, f"frequency_{i}"), getattr(self, f"phase_{i}")
        distance = (places - getattr(self, f"centre_{i}")).square().sum(-1)
        window = torch.exp(-getattr(self, f"sharpness_{i}").square() * distance / 2)
        return torch.sin((places * frequency).sum(-1) + phase) * window


class HyperZZW(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.grid, self.k, self.d_model = context.layout.grid, spec["kernel_size"], context.d_model
        d_model = Axis.of(D=context.d_model)
        self.whole, self.near = (ImplicitKernel(spec["rank"], context.d_model) for _ in range(2))
        self.declare("context_scale", (d_model, Axis.of(from_D=context.d_model)), fan_in())
        self.local_proj = context.linear("k", d_model, d_model)
        self.out_proj = context.linear("o", d_model, d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        x = tokens.without_padding(x)
        image = x.transpose(1, 2).unflatten(2, tokens.sides)
        taps = self.near(self.taps(x)).T.unflatten(1, (self.k, self.k)).unsqueeze(1)
        local = F.conv2d(image, taps, padding=self.k // 2, groups=self.d_model).flatten(2).transpose(1, 2)
        local = local * (1 + tokens.mean(x) @ self.context_scale.T).unsqueeze(1)
        slow = self.whole(self.places(x, tokens.sides)) * x
        return self.out_proj((slow + gelu_tanh(self.local_proj(local))) * x), None

    def places(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Row and column of each token [T, 2], scaled to -1 .. 1 over the grid that the network was built for."""
        assert self.grid is not None
        axes = [
            2 * torch.arange(n, device=x.device, dtype=x.dtype) / max(1, whole - 1) - 1
            for n, whole in zip(grid, self.grid, strict=True)
        ]
        return torch.cartesian_prod(*axes)

    def taps(self, x: Tensor) -> Tensor:
        """Row and column of each tap relative to the middle [k k, 2], -1 to 1."""
        steps = torch.linspace(-1, 1, self.k, device=x.device, dtype=x.dtype)
        return torch.cartesian_prod(steps, steps)


def reference(module: HyperZZW, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    x = tokens.without_padding(x)
    rows, columns = tokens.sides
    half, kernel = module.k // 2, module.near(module.taps(x)).unflatten(0, (module.k, module.k))
    fast = 1 + F.linear(tokens.mean(x), module.context_scale)
    slow = module.whole(module.places(x, tokens.sides))
    outputs = []
    for t in range(x.shape[1]):
        local = torch.zeros_like(x[:, 0])
        for i in range(module.k):
            for j in range(module.k):
                row, column = t // columns + i - half, t % columns + j - half
                if 0 <= row < rows and 0 <= column < columns:
                    local = local + kernel[i, j] * x[:, row * columns + column]
        gate = slow[t] * x[:, t] + gelu_tanh(F.linear(fast * local, module.local_proj.weight))
        outputs.append(F.linear(gate * x[:, t], module.out_proj.weight))
    return torch.stack(outputs, 1)


def flops(module: HyperZZW, T: int, S: int) -> int:
    return 2 * module.d_model * (T * module.k**2 + module.d_model)


OPERATOR = Operator(
    name="hyperzzw",
    slot="mixer",
    paper="Zhang 2024, arXiv:2401.17948",
    build=HyperZZW,
    ranges={"kernel_size": ODD},
    reference=reference,
    choices={"rank": (16, 32), "kernel_size": (3, 5)},
    flops=flops,
    causal=False,
    needs_2d=True,
    catalogue=(54,),
    quantizable=("k", "o"),
    complexity="T D (D + k^2)",
)
