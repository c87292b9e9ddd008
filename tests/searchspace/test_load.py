"""A space file that can't be meant is refused with the place, the value and what would be right."""

import json
from pathlib import Path
from typing import Any

import pytest

from searchspace import registry
from searchspace.load import builtin_spaces, load_space, resolve
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from tests.searchspace.archs import tiny_space


def with_blocks(**changes: Any) -> dict[str, Any]:
    return tiny_space(blocks=tiny_space()["blocks"] | changes)


WRONG = [
    (tiny_space(colour="red"), "the space has unknown 'colour'; known: "),
    ({k: v for k, v in tiny_space().items() if k != "stem"}, "lacks 'stem'"),
    (tiny_space(task="dreaming"), "unknown task 'dreaming'; known: causal_lm"),
    (tiny_space(d_model=[]), "d_model: a choice needs at least one value"),
    (tiny_space(d_model=[8, 8]), "d_model: a choice names each value once"),
    (with_blocks(mixer="telepathy"), "blocks.0.mixer: unknown mixer 'telepathy'; known: "),
    (with_blocks(mixer=[]), "blocks.0.mixer: a slot needs at least one candidate"),
    (with_blocks(mixer={"op": "pooling", "depth": 3}), "operator pooling has unknown 'depth'; known: window"),
    (with_blocks(ffn={"op": "mlp", "d_ff": []}), "mlp.d_ff: a choice needs at least one value"),
    (with_blocks(placement="under"), "blocks.0: unknown placement 'under'; known: pre, post, peri"),
    (with_blocks(color="red"), "blocks.0 has unknown 'color'"),
    (tiny_space(blocks=tiny_space()["blocks"] | {"7": {"ffn": "none"}}), "is beyond the 2 blocks"),
    (
        tiny_space(stages=[{"num_blocks": 2, "depth": [3]}]),
        "stages.0.depth 3: give a whole number from 0 to 2",
    ),
    (tiny_space(stages=[{"depth": [1]}]), "stages.0 lacks num_blocks, a whole number"),
    (tiny_space(d_model=[-32, 32]), "d_model -32: give a whole number from 1"),
    (tiny_space(d_model=32.5), "d_model 32.5: give a whole number"),
    (tiny_space(d_model="32"), "d_model 32: give a whole number"),
    (tiny_space(d_model=[[8, 16]]), "d_model [8, 16]: give a whole number"),
    (tiny_space(d_model=[True, 8]), "d_model True: give a whole number"),
    (tiny_space(version="one"), "version one: give a whole number"),
    (tiny_space(name=3), "name 3: give text"),
    (with_blocks(ffn={"op": "mlp", "d_ff": 64.5}), "mlp.d_ff 64.5: give a whole number"),
    (with_blocks(ffn={"op": "mlp", "d_ff": -64}), "mlp.d_ff -64: give a whole number from 1"),
    (with_blocks(ffn={"op": "mlp", "d_ff": [[64]]}), "mlp.d_ff [64]: give numbers or texts"),
    (with_blocks(ffn={"op": "mlp", "d_ff": float("nan")}), "mlp.d_ff nan: give a finite number"),
    (
        with_blocks(ffn={"op": "mlp", "d_ff": 2**80}),
        "mlp.d_ff 1208925819614629174706176: give a whole number",
    ),
    (with_blocks(ffn=[["mlp"]]), "blocks.0.ffn: ['mlp']: give the name of an operator"),
    (with_blocks(ffn=3), "blocks.0.ffn: 3: give the name of an operator"),
    (with_blocks(ffn={"d_ff": 64}), "give the name of an operator"),
    (with_blocks(norm={"candidates": ["rmsnorm"], "shared": "yes"}), "shared yes: give true or false"),
    (tiny_space(blocks=[1]), "blocks [1]: give a table"),
    (tiny_space(stages={"num_blocks": 2}), "give tables, each under [[stages]]"),
    (tiny_space(stages=[{"num_blocks": -1}]), "stages.0.num_blocks -1: give a whole number from 1"),
    (tiny_space(stages=[{"num_blocks": 10**9}]), "stages.0.num_blocks 1000000000: give a whole number"),
    (tiny_space(stages=[{"num_blocks": 2, "depth": [0.5]}]), "stages.0.depth 0.5: give a whole number"),
    (tiny_space(stages=[{"num_blocks": 2, "width_ratio": -2}]), "stages.0.width_ratio -2: give a finite"),
    (tiny_space(stages=[{"num_blocks": 2, "repeats": 0}]), "stages.0.repeats 0: give a whole number from 1"),
    (tiny_space(constraints=[{"quantity": "flops", "upper": "few"}]), "flops few: give a finite number"),
    (tiny_space(constraints=[{"quantity": "flops", "most": 3}]), "constraints.0 has unknown 'most'"),
    (tiny_space(operators={"mlp": 3}), "operators.mlp 3: give a table"),
    (tiny_space(operators={"telepathy": {}}), "unknown operator 'telepathy'"),
    (tiny_space(operators={"mlp": {"width": 3}}), "[operators.mlp] has unknown 'width'; known: "),
    (
        tiny_space(operators={"mamba2": {"num_states": [16]}}),
        "[operators.mamba2]: no slot of the space offers",
    ),
    (
        tiny_space(operators={"lm_head": {"vocab_size": 256}}),
        "[operators.lm_head]: no slot of the space offers",
    ),
    (
        tiny_space(constraints=[{"quantity": "charm", "upper": 1}]),
        "unknown quantity 'charm' in a constraint; known: ",
    ),
    (
        tiny_space(constraints=[{"quantity": "flops", "lower": 2, "upper": 1}]),
        "the bounds on flops contradict: at least 2, at most 1",
    ),
    (
        tiny_space(stem={"op": "patch_embedding", "image_size": 8, "channels": 1}),
        "give one value for patch_size",
    ),
]


@pytest.mark.parametrize(("data", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_a_wrong_space_is_refused_in_a_sentence(data: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=r".+") as refusal:
        resolve(data)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("name", builtin_spaces())
def test_a_built_in_space_loads_and_survives_json(name: str):
    space = load_space(name)
    assert space.name == name
    assert SpaceSpec.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_a_file_that_is_no_space_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"unknown space 'atlantis'; known: .*tiny-lm"):
        load_space("atlantis")
    with pytest.raises(ValueError, match="no space file"):
        load_space(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ValueError, match="is not TOML"):
        load_space(str(broken))


def test_an_override_holds_for_its_block_only():
    data = with_blocks(**{"1": {"ffn": "none"}})
    first, second = resolve(data).stages[0].blocks
    assert [c.op for c in first.ffn.candidates] == ["mlp", "none"]
    assert [c.op for c in second.ffn.candidates] == ["none"]


def test_an_option_is_a_decision_only_in_a_space_that_names_it():
    mixer: dict[str, Any] = {"op": "softmax_attention", "num_groups": 1, "head_dim": 8}
    blocks = {"mixer": [mixer], "ffn": ["none"]}
    silent = Encoding(resolve(tiny_space(blocks=blocks)))
    options = registry.operator("mixer", "softmax_attention").options
    decisions = {v.name.rpartition(".")[2] for v in silent.variables}
    assert "window" in decisions
    assert not set(options) & decisions
    mixer |= {"output_gate": ["none", "head"], "keys": ["own", "earlier"]}
    named = {
        v.name.rpartition(".")[2]: v.values for v in Encoding(resolve(tiny_space(blocks=blocks))).variables
    }
    assert (named["output_gate"], named["keys"]) == (("none", "head"), ("own", "earlier"))
    mixer["output_gate"] = "channel"
    with pytest.raises(ValueError, match="output_gate = 'channel' must be 'none' or 'element' or 'head'"):
        resolve(tiny_space(blocks=blocks))
