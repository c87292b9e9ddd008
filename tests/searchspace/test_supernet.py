"""The store of weights: what it holds, what it refuses, and that slices nest."""

import pytest
import torch

from searchspace import registry
from searchspace.load import resolve
from searchspace.primitives.axes import Axis, Declared, zeros
from searchspace.sampling import sample
from searchspace.spec.arch import OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.slicing import widest
from searchspace.supernet.supernet import Supernet
from tests.searchspace.archs import BLOCK, decoder, tiny_space


def test_one_tensor_with_two_kinds_of_axes_is_refused():
    rows, columns = Axis.of(F=4), Axis.of(D=2)
    one, other = Declared((rows, columns), "parameter", zeros), Declared((columns, rows), "parameter", zeros)
    with pytest.raises(
        ValueError, match=r"tensor up can't be shared: one operator declares parameter \('F', 'D'\)"
    ):
        widest("up", one, other)
    with pytest.raises(ValueError, match="another statistic"):
        widest("up", one, Declared((rows, columns), "statistic", zeros))


def test_operators_of_one_slot_share_tensors_of_one_name_at_the_widest():
    ffns = [{"op": "mlp", "d_ff": [16, 64], "activation": "gelu"}, {"op": "swiglu", "d_ff": [32]}]
    supernet = Supernet(resolve(tiny_space(blocks=tiny_space()["blocks"] | {"ffn": ffns})))
    assert supernet.tensors["blocks.0.ffn.up_proj.weight"].shape == (64, 16)
    assert supernet.tensors["blocks.0.ffn.gate_proj.weight"].shape == (32, 16)


def test_initial_weights_follow_the_seed_alone():
    space = resolve(tiny_space())
    torch.manual_seed(1)
    first = Supernet(space, seed=5).tensors
    torch.manual_seed(2)
    second = Supernet(space, seed=5).tensors
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not torch.equal(first["stem.weight"], Supernet(space, seed=6).tensors["stem.weight"])


def test_building_a_supernet_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Supernet(resolve(tiny_space()))
    assert torch.equal(torch.rand(1), expected)


def test_a_narrow_mlp_is_the_prefix_of_the_wide_one():
    space = resolve(tiny_space())
    supernet = Supernet(space)
    for arch in sample(Encoding(space), 10, seed=0, workload=Workload()):
        for i, block in enumerate(arch.blocks):
            if block.ffn.op == "mlp":
                shared, F, D = supernet.tensors, block.ffn["d_ff"], arch.d_model
                ffn = supernet.extract(arch).part(f"blocks.{i}").ffn
                assert torch.equal(ffn.up_proj.weight, shared[f"blocks.{i}.ffn.up_proj.weight"][:F, :D])
                assert torch.equal(ffn.down_proj.weight, shared[f"blocks.{i}.ffn.down_proj.weight"][:D, :F])


def test_an_architecture_of_another_space_is_refused_by_tensor():
    supernet = Supernet(resolve(tiny_space()))
    with pytest.raises(
        ValueError, match=r"the supernet of space tiny has no tensor blocks\.0\.mixer\.q_proj\.weight"
    ):
        supernet.weights(decoder(BLOCK))
    with pytest.raises(ValueError, match=r"tensor stem\.weight: the supernet of space tiny holds \(11, 16\)"):
        supernet.weights(decoder(d_model=32))


def test_an_extracted_model_owns_its_weights():
    supernet = Supernet(resolve(tiny_space()))
    arch = decoder(d_model=8, norm=OpSpec("none"))
    copied, viewed = supernet.extract(arch), supernet.extract(arch, copy=False)
    with torch.no_grad():
        supernet.tensors["stem.weight"].add_(1.0)
    assert not torch.equal(copied.part("stem").weight, viewed.part("stem").weight)


def test_a_name_used_twice_in_a_slot_is_refused():
    found: dict[tuple[str, str], registry.Operator] = {}
    entry = registry.operator("ffn", "mlp")
    registry._add(found, entry)
    with pytest.raises(ValueError, match="two operators of slot 'ffn' are named 'mlp'"):
        registry._add(found, entry)
