"""Small networks with formats that the tests of quantization share."""

from dataclasses import replace

import torch
from torch import Tensor

from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization.apply import apply_policy
from searchspace.spec.arch import ArchSpec, Format, OpSpec, QuantPolicy
from tests.searchspace.archs import BLOCK, decoder

ROLES = ("q", "k", "v", "o", "up", "down")
NORMED_ROLES = ("q", "k", "v", "up")  # what reads a norm
FORMATS = ["bf16", "fp16", "int8", "int8_dynamic", "int8_dynamic_smooth", "int8_static", "int8_static_smooth"]
FORMATS += ["int4", "int4_g32", "int4_g32_gptq", "fp8", "bct", "bct_g16"]
BATCHES = [(torch.arange(256).view(8, 32) * 7 % 11, Tokens())]


def arch_of(name: str, norm: str = "layernorm", placement: str = "pre", d_model: int = 64) -> ArchSpec:
    roles = NORMED_ROLES if name.endswith("smooth") else ROLES
    quant = QuantPolicy(tuple(sorted((role, Format.of(name)) for role in roles if name != "native")))
    block = replace(BLOCK, norm=OpSpec(norm), placement=placement, quant=quant)
    return decoder(block, block, d_model=d_model)


def trained(arch: ArchSpec, seed: int = 0) -> Model:
    """A network with weights by chance and norms that are not 1."""
    torch.manual_seed(seed)
    model = Model(arch.unquantized).eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        if "_norm_" in name:
            tensor.add_(0.3 * torch.randn(tensor.shape))
    return model


def quantized(name: str, **changes: object) -> Model:
    arch = arch_of(name, **changes)  # type: ignore[arg-type]
    return apply_policy(trained(arch), arch, BATCHES)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach(), expected.detach()
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
