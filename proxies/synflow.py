"""SynFlow: sum over weights of |w * dR/dw|; R is the output sum of the network with weights |w| for an input of ones.

Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", arXiv:2006.05467.
In a chain of linear maps without biases the sum over each layer equals R. For other parts of a network:

    input      one example of ones: an image, or every token embedded as ones; the embedding is not scored
    norms      x / rms(x), with rms constant in the backward pass; their weights are set to 1 and not scored. Published
               forms use batch norm in evaluation mode, a constant scale; this does the same for norms over channels.
               Without norms, gated and squared FFNs overflow float64 in about eight layers; a centring norm maps a
               token of ones to 0; with a differentiated rms, the flow upstream of a norm sums to 0
    the rest   activations, gates, attention weights, position terms and the norm inside Q-pooling are unchanged: the
               identity does not hold there, and dR/dw may be negative

Computed in float64, because the flow grows with width and depth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proxies.batch import input_shape
from proxies.registry import Proxy
from proxies.subject import Subject, finite_model
from searchspace.model import Model, build_part
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.spec.arch import BlockSpec, OpSpec

EPS = 1e-12


class ConstantScale(nn.Module):
    """Norm of the network with weights |w|: divides each token by its root mean square, a constant in the backward."""

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> ([B, T, D], no state)."""
        return x * torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + EPS), None


def synaptic_flow(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    """Return (|w|, dR/dw), both [...] in float64 with the weight's shape, of every scored tensor."""
    source = subject.once(finite_model)
    with torch.device("meta"):
        network = Model(subject.arch, build=_with_constant_scales).eval()
    kept = network.state_dict().keys()
    weights = {n: p.detach().abs().double() for n, p in source.named_parameters() if n in kept}
    state = {n: b.double() if b.is_floating_point() else b for n, b in source.named_buffers() if n in kept}
    shape, num_ids = input_shape(subject.arch.stem)
    device = next(source.parameters()).device
    inputs = torch.ones((1, *shape), dtype=torch.float64, device=device)
    if num_ids:
        state["stem.weight"] = torch.ones_like(weights.pop("stem.weight"))
        inputs = inputs.long()
    scored = [weight.requires_grad_() for weight in weights.values()]
    outputs, _ = torch.func.functional_call(network, weights | state, (inputs,))
    gradients = torch.autograd.grad(outputs.sum(), scored, allow_unused=True, materialize_grads=True)
    return [(weight.detach(), gradient) for weight, gradient in zip(scored, gradients, strict=True)]


def _with_constant_scales(slot: str, spec: OpSpec | BlockSpec, context: BuildContext) -> nn.Module:
    if slot == "norm":
        return ConstantScale()
    part = build_part(slot, spec, context)
    for name, _ in list(part.named_children()):
        if isinstance(spec, BlockSpec) and "_norm_" in name:
            part.add_module(name, ConstantScale())
    return part


def synflow(subject: Subject) -> float:
    return sum((w * gradient).abs().sum().item() for w, gradient in subject.once(synaptic_flow))


PROXY = Proxy(
    name="synflow",
    paper="Tanaka et al. 2020, arXiv:2006.05467",
    needs="nothing",
    score=synflow,
)
