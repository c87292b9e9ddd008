"""Shared weights under formats: rounded in the forward pass, trained as if they were not."""

import torch

from searchspace.load import resolve
from searchspace.quantization.apply import apply_policy
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from tests.searchspace.quantization.test_space import quantized_space

INPUTS = torch.arange(64).view(4, 16) % 11


def test_the_supernet_runs_the_rounded_weights_that_are_packed():
    space = resolve(quantized_space(quant={"qkv": ["int8"], "up_gate": ["int4_g32"]}))
    supernet = Supernet(space)
    for arch in sample(Encoding(space), 6, seed=0, workload=Workload()):
        packed = apply_policy(supernet.extract(arch), arch)
        with torch.no_grad():
            expected = packed(INPUTS)[0]
            torch.testing.assert_close(supernet.forward(arch, INPUTS, training=False), expected)
            native = supernet.forward(arch.unquantized, INPUTS, training=False)
        assert (arch == arch.unquantized) == torch.equal(native, expected)


def test_gradients_reach_exactly_the_slices_that_are_used():
    space = resolve(quantized_space(quant={"qkv": ["int4_g32"], "up_gate": ["int8_static"]}))
    supernet = Supernet(space)
    for arch in sample(Encoding(space), 4, seed=1, workload=Workload()):
        grads = []
        for network in (arch, arch.unquantized):
            loss = supernet.forward(network, INPUTS).square().mean()
            found = torch.autograd.grad(loss, supernet.parameters(), allow_unused=True)
            grads.append([None if g is None else g != 0 for g in found])
        for quantized, native in zip(*grads, strict=True):
            assert (quantized is None) == (native is None)
            assert quantized is None or (quantized == native).float().mean() > 0.98
