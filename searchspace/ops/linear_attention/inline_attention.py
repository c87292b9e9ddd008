"""InLine attention: linear attention normalised by subtraction, so that different queries give different weights.

    w_ij = 1 / n + s / n phi(q_i) . (phi(k_j) - mean_j phi(k_j))          s = 1 / sqrt(K)
    o_i = sum_j w_ij v_j + sum_p r_p v_{i + p}          p over the 3 x 3 window around i, r = MLP(mean_j x_j)

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", arXiv:2412.06590. Rows sum to 1 but
weights may be negative. The kernel r of the local residual is computed per image and channel. Bidirectional, on a grid
where there is a residual. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V
value dim, P hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.axes import Axis, fan_in
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec

HIDDEN = 16
FEATURES: dict[str, Callable[[Tensor], Tensor]] = {"identity": torch.Tensor.clone, "relu": torch.relu}


class InlineAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.features, self.kernel_size = FEATURES[spec["features"]], spec["kernel_size"]
        if self.kernel_size:
            taps, hidden = Axis.of(G=self.G, K=self.K, taps=self.kernel_size**2), Axis.of(P=HIDDEN)
            self.declare("kernel_reduce", (hidden, Axis.of(D=context.d_model)), fan_in())
            self.declare("kernel_expand", (taps, hidden), fan_in(1 / self.kernel_size))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v, real = self.mapped(x, tokens)
        n = real.sum(1, keepdim=True).clamp_min(1.0)  # [B, 1, 1, 1]
        mean_k, mean_v = k.sum(1, keepdim=True) / n, v.sum(1, keepdim=True) / n
        scale = 1 / math.sqrt(self.K)
        towards_mean = 1 - scale * (q * mean_k.unsqueeze(3)).sum(-1, keepdim=True)
        o = scale * recurrence.sum_over_all(q, k / n, v) + towards_mean * mean_v.unsqueeze(3)
        if self.kernel_size:
            o = o + self.around(v, self.kernels(x, tokens).to(v.dtype), tokens).unsqueeze(3)
        return self.merge_heads(o.flatten(2, 3).to(x.dtype)), None

    def mapped(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, K], phi(k) and v [B, T, G, K], both 0 at padding; which tokens are real [B, T, 1, 1]."""
        q, k, v = (t.to(recurrence.state_dtype(x.dtype)) for t in self.queries_keys_values(x))
        real = tokens.real(k)
        return self.features(q).unflatten(2, (self.G, self.R)), self.features(k) * real, v * real, real

    def kernels(self, x: Tensor, tokens: Tokens) -> Tensor:
        """The kernel of each channel of each image [B, G K, taps], for x [B, T, D]."""
        reduced = F.gelu(F.linear(tokens.mean(x), self.kernel_reduce))
        return F.linear(reduced, self.kernel_expand).unflatten(1, (self.G * self.K, -1))

    def around(self, v: Tensor, kernels: Tensor, tokens: Tokens) -> Tensor:
        """v [B, T, G, V] -> each channel convolved with its image's kernel [B, T, G, V]."""
        image = v.flatten(2).transpose(1, 2).unflatten(2, tokens.sides).flatten(0, 1).unsqueeze(0)
        kernel = kernels.flatten(0, 1).view(-1, 1, self.kernel_size, self.kernel_size)
        y = F.conv2d(image, kernel, padding=self.kernel_size // 2, groups=len(kernel))
        return y.view(v.shape[0], -1, v.shape[1]).transpose(1, 2).unflatten(2, v.shape[2:])


def reference(module: InlineAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v, real = module.mapped(x, tokens)
    n = real.sum(1, keepdim=True).clamp_min(1.0)
    centred = (k - k.sum(1, keepdim=True) / n) * real
    weights = real.view(len(x), 1, 1, 1, -1) + torch.einsum("bigrk,bjgk->bgrij", q, centred) / math.sqrt(
        module.K
    )
    o = torch.einsum("bgrij,bjgv->bigrv", weights, v) / n.unsqueeze(3)
    if module.kernel_size:
        image = v.flatten(2).transpose(1, 2).unflatten(2, tokens.sides)
        patches = F.unfold(image, module.kernel_size, padding=module.kernel_size // 2)  # [B, G K taps, T]
        around = patches.unflatten(1, (module.G, module.K, -1)) * module.kernels(x, tokens).unflatten(
            1, (module.G, -1)
        ).unsqueeze(-1)
        o = o + around.sum(3).permute(0, 3, 1, 2).unsqueeze(3)
    return module.merge_heads(o.flatten(2, 3).to(x.dtype))


def flops(module: InlineAttention, T: int, S: int) -> int:
    mixed = recurrence.sum_over_all_flops(T, module.H, module.G, module.K, module.K)
    if not module.kernel_size:
        return mixed
    made = 2 * (module.kernel_reduce.numel() + module.kernel_expand.numel())
    return mixed + made + 2 * T * module.G * module.K * module.kernel_size**2


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["kernel_size"] and spec["kernel_size"] % 2 == 0:
        return (
            f"inline_attention: kernel_size = {spec['kernel_size']} must be 0 or odd, since it has a middle"
        )
    if spec["kernel_size"] and context.layout.grid is None:
        return f"inline_attention: kernel_size={spec['kernel_size']} needs a 2-D grid of tokens"
    return None


OPERATOR = Operator(
    name="inline_attention",
    slot="mixer",
    paper="Han et al. 2024, arXiv:2412.06590",
    build=InlineAttention,
    ranges={"kernel_size": COUNT},
    reference=reference,
    choices={**HEAD_CHOICES, "features": tuple(FEATURES), "kernel_size": (0, 3)},
    flops=flops,
    why_invalid=why_invalid,
    causal=False,
    catalogue=(52,),
    complexity="T H K V",
)
