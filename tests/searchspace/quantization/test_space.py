"""Formats as decisions of a space."""

from typing import Any

import numpy as np
import pytest

from searchspace.cost import cost
from searchspace.load import resolve
from searchspace.quantization.sensitivity import one_role_at_a_time
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec, Format
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from searchspace.validity import why_invalid
from tests.searchspace.archs import ATTENTION, tiny_space

QUANT = {
    "qkv": ["native", "int8_dynamic"],
    "up_gate": ["native", "int8_static", "int4_g32_gptq"],
    "state": ["native", "int8"],
}


def quantized_space(**changes: Any) -> dict[str, Any]:
    attention = {n: str(getattr(v, "op", v)) if not isinstance(v, int) else v for n, v in ATTENTION.items}
    mlp = {"op": "mlp", "d_ff": [16, 32], "activation": "gelu"}
    blocks = {
        "mixer": [
            {"op": "softmax_attention", **attention},
            {"op": "lmu", "num_signals": 1, "order": 8, "theta": 16},
            "none",
        ],
        "ffn": [mlp, {"op": "swiglu", "d_ff": [16]}, "none"],
        "quant": QUANT,
    }
    return tiny_space(blocks=blocks | changes)


def test_a_decision_on_formats_exists_where_an_operator_has_the_role():
    space = resolve(quantized_space())
    encoding = Encoding(space)
    genomes = encoding.random(2000, np.random.default_rng(0))
    archs = [encoding.decode(tuple(map(int, g))) for g in genomes]
    names = [v.name for v in encoding.variables]
    used = encoding.in_use(genomes)
    for i, arch in enumerate(archs):
        for b, block in enumerate(arch.blocks):
            is_attention, has_ffn = block.mixer.op == "softmax_attention", block.ffn.op != "none"
            assert used[i, names.index(f"stages.0.blocks.{b}.quant.qkv")] == is_attention
            assert used[i, names.index(f"stages.0.blocks.{b}.quant.state")] == is_attention
            assert used[i, names.index(f"stages.0.blocks.{b}.quant.up_gate")] == has_ffn
            assert is_attention or ("q" not in dict(block.quant.roles) and block.quant.state == Format())
    assert len({a.id for a in archs if why_invalid(a) is None}) > 200


def test_a_state_has_formats_in_the_mixers_that_keep_rows_of_tokens():
    mixers = ["softmax_attention", "liger", "pooling", "min_attention", "gated_deltanet", "mamba", "none"]
    space = resolve(quantized_space(mixer=mixers))
    state = dict(space.stages[0].blocks[0].quant)["state"]
    assert state.mixers == ("softmax_attention", "liger", "pooling", "min_attention")
    with pytest.raises(
        ValueError, match="no operator of the block keeps a state that can be stored in few bits"
    ):
        resolve(quantized_space(mixer=["gated_deltanet", "mamba"], quant={"state": ["int8"]}))


def test_genomes_in_canonical_form_are_equal_where_the_architectures_are():
    encoding = Encoding(resolve(quantized_space()))
    genomes = encoding.random(3000, np.random.default_rng(0))
    by_arch: dict[str, set[tuple[int, ...]]] = {}
    for genome in genomes:
        genome = tuple(map(int, genome))
        arch = encoding.decode(genome)
        if all(block.is_active for block in arch.blocks):
            assert encoding.decode(encoding.encode(arch)) == arch
            by_arch.setdefault(arch.id, set()).add(genome)
    assert {len(found) for found in by_arch.values()} == {1}


def test_a_space_and_its_architectures_survive_json():
    space = resolve(quantized_space())
    assert SpaceSpec.from_json(space.to_json()) == space
    for arch in sample(Encoding(space), 20, seed=0, workload=Workload()):
        assert ArchSpec.from_json(arch.to_json()) == arch


def test_an_inactive_block_has_no_formats():
    encoding = Encoding(resolve(quantized_space()))
    names = [v.name for v in encoding.variables]
    genomes = np.repeat((encoding.num_values - 1)[None], 2, 0)
    genomes[:, names.index("stages.0.depth")] = 0
    genomes[1, [i for i, name in enumerate(names) if ".1.quant." in name]] = 0
    one, other = encoding.canonical(genomes)
    assert (one == other).all()
    assert encoding.decode(tuple(map(int, genomes[0]))) == encoding.decode(tuple(map(int, genomes[1])))


def test_formats_take_fewer_bytes_and_change_no_count():
    space = resolve(quantized_space())
    for arch in sample(Encoding(space), 30, seed=1, workload=Workload()):
        quantized, plain = cost(arch, Workload()), cost(arch.unquantized, Workload())
        assert (quantized.parameters, quantized.flops) == (plain.parameters, plain.flops)
        states = [b for b in arch.blocks if b.quant.state != Format()]
        assert quantized.state_bytes == plain.state_bytes - len(states) * 2 * 64 * (4 * 4 - (4 + 4))


def test_a_supernet_holds_the_weights_of_a_quantized_space_once():
    space, plain = resolve(quantized_space()), resolve(quantized_space(quant={}))
    assert Supernet(space).declared.keys() == Supernet(plain).declared.keys()


@pytest.mark.parametrize(
    ("quant", "sentence"),
    [
        ({"qkv": ["int3"]}, r"blocks\.0\.quant\.qkv: unknown format 'int3'; known: native, bf16"),
        ({"qkv": ["int8_gptq"]}, "unknown format 'int8_gptq'"),
        ({"qkv": ["int8"], "q": ["int8"]}, "role q is in both 'q' and 'qkv'"),
        ({"gate_2": ["int8"]}, "no operator of the block has a role gate_2"),
        ({"state": ["fp8"]}, "a state takes: native, bf16, int8, int4"),
        ({"up": ["int4_g7"]}, "a group has an even number of members"),
    ],
)
def test_a_wrong_format_is_refused_in_a_sentence(quant: dict[str, list[str]], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        resolve(quantized_space(quant=quant))


def test_formats_are_for_dense_projections():
    with pytest.raises(ValueError, match="projection must be dense alone"):
        resolve(quantized_space(projection=["dense", "low_rank"]))


def test_a_search_can_start_from_one_role_at_a_time():
    encoding = Encoding(resolve(quantized_space()))
    base = encoding.decode(tuple(0 for _ in encoding.variables))
    found = one_role_at_a_time(encoding, base)
    assert [str(arch.blocks[0].quant) for arch in found] == [
        "k=int8_dynamic q=int8_dynamic v=int8_dynamic",
        "state=int8",
        "gate=int8_static up=int8_static",
        "gate=int4_g32_gptq up=int4_g32_gptq",
    ]
    assert all(arch.unquantized == base for arch in found)
