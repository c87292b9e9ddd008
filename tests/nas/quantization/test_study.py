"""A study whose networks are quantized, from the space file to a folder that runs."""

from pathlib import Path

import pytest
import torch

import nas
from nas.api import _problem
from nas.errors import UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.export.folder import read_folder
from nas.extraction import Selection, extract
from nas.request.recipe import Recipe
from nas.setup.plan import plan
from nas.tasks.load import load_task
from nas.training.settings import TrainingSettings
from searchspace.cost import cost
from searchspace.load import resolve
from searchspace.primitives.quantized_linear import real_formats
from searchspace.quantization.offers import why_slow
from searchspace.quantization.sensitivity import first_architectures
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from searchspace.validity import why_invalid
from tests.searchspace.archs import ATTENTION

WORKLOAD = Workload(batch_size=2, seq_len=16)


def space(mixers: list[str] | None = None, **quant: list[str]) -> SpaceSpec:
    attention = {n: str(getattr(v, "op", v)) if not isinstance(v, int) else v for n, v in ATTENTION.items}
    return resolve(
        {
            "name": "quantized",
            "task": "causal_lm",
            "data": "plays",
            "d_model": 32,
            "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 16},
            "head": {"op": "lm_head", "vocab_size": 256},
            "stages": [{"num_blocks": 2, "depth": [1, 2]}],
            "blocks": {
                "mixer": [{"op": "softmax_attention", **attention, "num_groups": [1, 2]}, *(mixers or [])],
                "ffn": [{"op": "mlp", "d_ff": [32, 64], "activation": "gelu"}],
                "norm": "layernorm",
                "quant": quant,
            },
        }
    )


def recipe(**changes: object) -> Recipe:
    training = TrainingSettings(steps=4, batch_size=4)
    small = Recipe("quantized", searcher="random", trials=8, lag=2, finalists=2, validation_examples=32)
    return small.changed(**{"batch_size": 16, "workload": WORKLOAD, "training": training} | changes)


@pytest.mark.slow
def test_a_quantized_network_is_searched_timed_and_extracted_packed(tmp_path: Path):
    timed = {"int8_dynamic", "int8_static", "bf16"}
    missing = timed - set(real_formats("cpu", WORKLOAD.batch_size * WORKLOAD.num_queries))
    if missing:
        pytest.skip(f"this processor has no kernel for {', '.join(sorted(missing))}")
    offered = space(
        qkv=["native", "int8_dynamic"], up=["native", "int8_static_smooth"], down=["native", "bf16"]
    )
    db = f"sqlite:///{tmp_path}/nas.db"
    result = nas.search(
        space=offered, objectives=["loss", "latency", "memory"], recipe=recipe(), study="q", db=db
    )
    assert [t.error for t in result.trials if t.state == "failed"] == []
    assert _extracted(result, "q", db, tmp_path)["measured_latency"] > 0


def _extracted(result: nas.Result, study: str, db: str, folder: Path) -> dict[str, float]:
    """The numbers of the trial with most formats as a folder of its own; run.py has given its loss once."""
    trial = max(result.trials, key=lambda t: len(str(t.arch)))
    assert trial.values["memory"] == pytest.approx(_memory(trial.arch))
    done = extract(study, folder / "out", db=db, select=Selection(trial=trial.number))
    model, config = read_folder(folder / "out")
    assert model.arch == ArchSpec.from_json(trial.arch) != model.arch.unquantized
    assert config["numbers"]["weight_bytes"] == sum(t.nbytes for t in model.state_dict().values())
    assert any(t.dtype in (torch.int8, torch.uint8) for t in model.state_dict().values())
    assert done.numbers["loss"] == pytest.approx(trial.values["loss"], abs=1e-5)
    assert (folder / "out" / "network" / "primitives" / "quantized_linear.py").is_file()
    assert str(model.arch.blocks[0].quant) in (folder / "out" / "README.md").read_text()
    return done.numbers


def test_a_latency_that_would_be_simulated_is_refused_in_a_sentence(tmp_path: Path):
    db = f"sqlite:///{tmp_path}/nas.db"
    for quant, sentence in (
        ({"qkv": ["native", "int4_g32"]}, "qkv = int4_g32: int4_g32 has no kernel on cpu for 32 tokens"),
        ({"down": ["bct"]}, r"down = bct: .* would do"),
    ):
        with pytest.raises(UsageError, match=f"^objectives latency: space quantized offers {sentence}"):
            nas.search(
                space=space(**quant), objectives=["loss", "latency"], recipe=recipe(), study="q", db=db
            )
    decode = recipe(workload=Workload("decode", context_len=15))
    with pytest.raises(UsageError, match=r"state = int8: a state as int8 has no kernel on cpu"):
        nas.search(
            space=space(state=["int8"]),
            objectives=["latency"],
            recipe=decode,
            study="q",
            db=db,
            quality="proxy",
        )


@pytest.mark.slow
def test_simulated_formats_are_judged_by_quality_and_size(tmp_path: Path):
    offered = space(
        qkv=["native", "bct"], up=["int4_g32_gptq"], down=["int8_static"], state=["native", "int4"]
    )
    db = f"sqlite:///{tmp_path}/nas.db"
    result = nas.search(
        space=offered, objectives=["loss", "memory"], recipe=recipe(trials=3), study="s", db=db
    )
    assert {t.state for t in result.trials} == {"complete"}
    _extracted(result, "s", db, tmp_path)


def test_a_calibration_that_sees_no_number_fails_the_trial_with_a_reason(tmp_path: Path, monkeypatch):
    offered = space(qkv=["int8_static"])
    supernet = Supernet(offered)
    supernet.tensors["stem.weight"].data[:] = float("nan")
    judged = InheritedQuality.of(supernet, load_task("plays", stem=offered.stem, head=offered.head), 8, 8)
    arch = sample(Encoding(offered), 1, seed=0, workload=WORKLOAD)[0]
    with pytest.raises(ValueError, match=r"q_proj is given values that are not finite"):
        judged(arch)


def test_a_study_goes_on_where_the_calibration_of_some_networks_sees_no_number(tmp_path: Path):
    """Units 32 to 63 of an FFN are broken: whoever uses them can't be calibrated, the others can."""
    offered = space(down=["native", "int8_static"])
    supernet = Supernet(offered)
    for name, tensor in supernet.tensors.items():
        if name.endswith("ffn.up_proj.weight"):
            tensor.data[32:] = float("nan")
    judged = InheritedQuality.of(supernet, load_task("plays", stem=offered.stem, head=offered.head), 8, 8)
    result = nas.search(
        space=offered,
        objectives=["loss"],
        evaluate=lambda arch: {"loss": judged(arch)["loss"]},
        recipe=recipe(trials=12),
        db=f"sqlite:///{tmp_path}/nas.db",
    )
    assert len(result.trials) == 12
    for trial in result.trials:
        blocks = [b for b in ArchSpec.from_json(trial.arch).blocks if b.is_active]
        is_broken = any(b.ffn["d_ff"] == 64 for b in blocks)
        assert (trial.state == "failed") == is_broken
        if any(b.ffn["d_ff"] == 64 and b.quant.roles for b in blocks[:1]):
            assert "calibration: blocks.0.ffn.down_proj is given values that are not finite" in trial.error
    assert {t.state for t in result.trials} == {"complete", "failed"}


def test_a_search_begins_with_one_decision_on_formats_at_a_time_and_resumes_there(tmp_path: Path):
    offered = space(qkv=["native", "int8_dynamic"], up=["native", "int8_dynamic", "bct"])
    archs = first_architectures(Encoding(offered))
    assert [str(arch.blocks[1].quant) for arch in archs] == [
        "native",
        "k=int8_dynamic q=int8_dynamic up=int8_dynamic v=int8_dynamic",
        "up=bct",
        "k=int8_dynamic q=int8_dynamic v=int8_dynamic",
        "up=int8_dynamic",
    ]
    first = [arch.id for arch in archs]

    def judge(arch: ArchSpec) -> dict[str, float]:
        return {"size": len(arch.canonical)}

    for searcher in ("guided", "nsga2", "local", "tpe"):
        settings = {"space": offered, "objectives": ["size"], "evaluate": judge, "searcher": searcher}
        dbs = [f"sqlite:///{tmp_path}/{searcher}-{name}.db" for name in ("whole", "halted")]
        whole = nas.search(recipe=recipe(trials=12), db=dbs[0], study="s", **settings)
        nas.search(recipe=recipe(trials=3), db=dbs[1], study="s", **settings)
        halted = nas.resume("s", trials=9, db=dbs[1], evaluate=judge)
        begun = whole.trials[: 2 * len(first)]
        assert set(first) <= {t.arch_id for t in begun}  # one of them may be a plain network, too
        assert {"first", "plain"} <= {t.origin for t in begun}
        assert [t.arch_id for t in halted.trials] == [t.arch_id for t in whole.trials]


def test_formats_that_are_slower_than_bf16_are_tried_where_bytes_count_and_only_there():
    """At width 32 rounding the activations takes longer than the product."""
    offered = space(qkv=["native", "int8_dynamic"])
    native, arch = first_architectures(Encoding(offered))
    for names, is_refused in ((["loss", "latency"], True), (["loss", "latency", "memory"], False)):
        study = plan(offered, recipe(), names)
        problem = _problem(SpaceSpec.from_json(study.space), recipe(), study)
        assert problem.why_invalid(native) is None
        reason = problem.why_invalid(arch)
        assert (reason is not None) == is_refused
    assert why_slow(arch, WORKLOAD, "cpu") == (
        "blocks.0, q: int8_dynamic pays on cpu from 768 outputs on for 32 tokens; with 16 it is slower than bf16"
    )


def test_a_state_in_few_bits_changes_the_loss_by_what_rounding_does():
    """Decoding under the policy: a native state gives the loss of the whole sequence, fewer bits come less near."""
    offered = space(state=["native", "bf16", "int8", "int4"])
    torch.manual_seed(0)
    supernet = Supernet(offered)
    for tensor in supernet.parameters():
        tensor.data.mul_(2.0)  # attention that is not uniform
    judged = InheritedQuality.of(supernet, load_task("plays", stem=offered.stem, head=offered.head), 16, 16)
    encoding = Encoding(offered)
    names = [v.name for v in encoding.variables]
    losses = {}
    for value in range(4):
        genome = (encoding.num_values - 1).tolist()
        for i, name in enumerate(names):
            genome[i] = value if name.endswith("quant.state") else genome[i]
        arch = encoding.decode(tuple(genome))
        assert why_invalid(arch) is None
        losses[arch.blocks[0].quant.state.name] = judged(arch)["loss"]
    off = {name: abs(loss - losses["native"]) for name, loss in losses.items()}
    assert 0 < off["int8"] < 0.3 * off["int4"]
    assert 0 < off["bf16"] < 0.3 * off["int4"]


def test_a_decoded_state_takes_the_bytes_that_the_cost_states():
    for name in ("native", "bf16", "int8", "int4"):
        offered = space(state=[name])
        arch = max(sample(Encoding(offered), 4, seed=0, workload=WORKLOAD), key=lambda a: len(a.canonical))
        model = Supernet(offered).extract(arch)
        model = InheritedQuality(Supernet(offered), None, (), ()).with_formats(model, arch)  # type: ignore[arg-type]
        state, workload = model.init_state(1), Workload("decode", context_len=8)
        with torch.inference_mode():
            for token in range(9):
                _, state = model(torch.full((1, 1), token), state=state)
        held = sum(v.nbytes for s in state.values() if isinstance(s, dict) for v in _tensors(s))
        assert held == cost(arch, workload).state_bytes


def test_training_alone_is_in_native_numbers_and_judged_in_those_of_the_architecture(tmp_path: Path):
    offered = space(qkv=["native", "int8_static"], up=["native", "int4_g32"])
    db = f"sqlite:///{tmp_path}/nas.db"
    small = recipe(trials=2, beat_baseline=False, alone=recipe().alone.__class__(steps=4, batch_size=4))
    result = nas.search(
        space=offered, objectives=["loss", "memory"], recipe=small, study="t", db=db, quality="train"
    )
    assert {t.state for t in result.trials} == {"complete"}


def test_quality_of_eight_bits_is_near_that_of_native_numbers():
    offered = space(qkv=["int8_dynamic"], o=["int8_dynamic"], up=["int8_dynamic"], down=["int8_dynamic"])
    supernet = Supernet(offered)
    judged = InheritedQuality.of(supernet, load_task("plays", stem=offered.stem, head=offered.head), 16, 16)
    for arch in sample(Encoding(offered), 3, seed=0, workload=WORKLOAD):
        native = quality(judged.native(arch), judged.validation)["loss"]
        assert judged(arch)["loss"] == pytest.approx(native, rel=1e-3)


def _tensors(state: dict) -> list:
    found = []
    for value in state.values():
        found += _tensors(value) if isinstance(value, dict) else [value] if hasattr(value, "nbytes") else []
    return found


def _memory(arch: dict) -> float:
    return cost(ArchSpec.from_json(arch), WORKLOAD).memory_bytes / 1e6
