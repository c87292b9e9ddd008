"""What is timed in onnxruntime is the network itself, put together from parts that are exported once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from predictors import onnx_graphs
from predictors.device import DeviceProfile
from predictors.network_bench import measure_networks, stem_inputs
from predictors.onnx_graphs import Graphs
from predictors.onnx_network import forms, input_name, network_graph, part_graph
from predictors.onnx_session import session, session_call
from predictors.onnxruntime_bench import network_makers, setting_part, why_not_run
from predictors.operator_grid import operator_call, settings
from predictors.profiling import local_profile, local_profile_folder, random_models
from predictors.runtimes import EAGER, ONNXRUNTIME, default_runtime, why_not
from searchspace.load import resolve
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload

WORKLOAD = Workload(seq_len=8)
ATTENTION = {"num_groups": 1, "window": 0, "normalizer": "softmax"} | dict.fromkeys(
    ("qk_norm", "score_bias", "temperature"), "none"
)
TEXT = {
    "name": "text",
    "task": "causal_lm",
    "data": "plays",
    "d_model": [32],
    "position": {"op": "rope", "dim": 16},
    "final_norm": "rmsnorm",
    "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 16},
    "head": {"op": "tied_head", "vocab_size": 256},
    "stages": [{"num_blocks": 2}],
    "blocks": {
        "mixer": [
            {"op": "softmax_attention", "heads_per_group": 2, "head_dim": 16, **ATTENTION},
            {"op": "pooling", "window": 3},
        ],
        "ffn": [{"op": "mlp", "d_ff": 32}],
        "norm": "rmsnorm",
        "placement": ["pre", "peri"],
    },
}
IMAGES = {
    "name": "images",
    "task": "classification",
    "data": "digits",
    "d_model": [16],
    "position": "learned",
    "final_norm": "layernorm",
    "stem": {"op": "patch_embedding", "image_size": 8, "patch_size": 2, "channels": 1},
    "head": {"op": "classifier", "num_classes": 10},
    "stages": [{"num_blocks": 1}, {"num_blocks": 1, "enter": {"op": "q_pooling", "num_heads": 2}}],
    "blocks": {
        "mixer": {"op": "pooling", "window": 3},
        "ffn": {"op": "mlp", "d_ff": 32},
        "norm": "layernorm",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Graphs of all tests: what one has exported, the next one finds."""
    return tmp_path_factory.mktemp("graphs")


def networks(space, count, workload=WORKLOAD):
    return random_models(sample(Encoding(resolve(space)), count, 0, workload))


DELTA = {
    **TEXT,
    "blocks": {"mixer": {"op": "gated_deltanet", "num_groups": 1}, "ffn": "none", "norm": "rmsnorm"},
}


@pytest.mark.parametrize(("space", "count"), [(TEXT, 3), (IMAGES, 1), (DELTA, 1)])
def test_the_graph_computes_the_logits_and_no_part_is_exported_twice(folder, monkeypatch, space, count):
    models = networks(space, count)
    for made in (Graphs(folder), Graphs(folder)):
        network_makers(models, WORKLOAD, 1, made)
        for model in models.values():
            inputs = stem_inputs(model.arch.stem, WORKLOAD, WORKLOAD.seq_len, "cpu")
            for given in (inputs, inputs.flip(-1)):
                (found,) = session(network_graph(model, inputs, made), 1).run(
                    None, {input_name(model.arch): given.numpy()}
                )
                with torch.no_grad():
                    np.testing.assert_allclose(found, model(given)[0], rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(onnx_graphs, "export_together", None)  # the second time all is there


def test_networks_are_of_parts_that_others_have_too():
    """Weights do not count: the same block twice is one graph, and a network is never a part of its own."""
    (model,) = networks(TEXT, 1).values()
    twice = replace(model.arch, blocks=(model.arch.blocks[0],) * 2)
    (model,) = random_models([twice]).values()
    inputs = stem_inputs(model.arch.stem, WORKLOAD, WORKLOAD.seq_len, "cpu")
    steps = [s for s in next(forms(model, inputs)).steps if s.part is not None]
    keys = [s.part.key for s in steps if s.part is not None and s.path.startswith("blocks.")]
    assert keys[: len(keys) // 2] == keys[len(keys) // 2 :]
    assert all(s.path for s in steps)


def test_a_setting_is_the_part_of_a_network(folder):
    graphs, space = Graphs(folder), resolve(TEXT)
    setting = next(s for s in settings(space) if s.spec.op == "softmax_attention")
    part = setting_part(setting, WORKLOAD)
    found = session_call(session(part_graph(part, graphs), 1), part.inputs)()
    with torch.no_grad():
        np.testing.assert_allclose(found[0], part.computed(part.inputs)[0], rtol=1e-4, atol=1e-5)
    in_networks = {
        part.key
        for model in networks(TEXT, 3).values()
        for part in next(forms(model, stem_inputs(model.arch.stem, WORKLOAD, WORKLOAD.seq_len, "cpu"))).parts
    }
    assert part.key in in_networks


def test_a_head_that_reads_with_the_rows_of_the_stem_is_given_some():
    head = next(s for s in settings(resolve(TEXT)) if s.spec.op == "tied_head")
    with torch.no_grad():
        assert operator_call(head, WORKLOAD, "cpu")().shape == (1, WORKLOAD.seq_len, 256)
    assert setting_part(head, WORKLOAD).inputs[-1].shape == (256, 32)


def test_numbers_of_two_runtimes_are_told_apart(folder):
    models = networks(TEXT, 1)
    rows = {
        runtime: measure_networks(models, WORKLOAD, samples=5, runtime=runtime, graphs=folder)[0][0]
        for runtime in (EAGER, ONNXRUNTIME)
    }
    assert {r: m.implementation for r, m in rows.items()} == {EAGER: EAGER, ONNXRUNTIME: ONNXRUNTIME}
    assert "onnxruntime " in rows[ONNXRUNTIME].software
    assert "onnxruntime" not in rows[EAGER].software


@pytest.mark.slow
def test_a_profile_is_of_one_runtime_and_an_old_one_is_eager(tmp_path):
    space = resolve({**IMAGES, "stages": [{"num_blocks": 1}]})
    found = local_profile(space, WORKLOAD, tmp_path, seconds_budget=1.0, num_networks=4, runtime=ONNXRUNTIME)
    folder = local_profile_folder(WORKLOAD, tmp_path, runtime=ONNXRUNTIME)
    assert folder != local_profile_folder(WORKLOAD, tmp_path)
    assert DeviceProfile.load(folder).runtime == ONNXRUNTIME
    assert {row.implementation for row in found.operators} == {ONNXRUNTIME}
    assert {row.measurement.implementation for row in found.networks} == {ONNXRUNTIME}
    assert not found.failures
    assert all(row.value > 0 for row in found.operators)
    assert "runtime" in (found.why_unfit("cpu", 1, WORKLOAD, found.reference_id) or "")
    head = (folder / "profile.toml").read_text()
    (folder / "profile.toml").write_text(head.replace(f'runtime = "{ONNXRUNTIME}"\n', ""))
    assert DeviceProfile.load(folder).runtime == EAGER


def test_what_onnx_has_no_form_of_is_refused_by_name(folder):
    mixer = [{"op": "moba", "num_groups": 1}, {"op": "pooling", "window": 3}]
    space = resolve({**TEXT, "blocks": {"mixer": mixer, "ffn": "none", "norm": "rmsnorm"}})
    reason = why_not_run(settings(space), WORKLOAD, folder) or ""
    assert "mixer moba" in reason
    assert "eager" in reason
    assert "pooling" not in reason
    assert why_not_run(settings(space), WORKLOAD, folder) == reason


@pytest.mark.parametrize(
    ("device", "workload", "named"),
    [
        ("cuda", Workload(), "cuda"),
        ("cpu", Workload(phase="decode"), "decode"),
        ("cpu", Workload(dtype="bfloat16"), "bfloat16"),
    ],
)
def test_what_a_runtime_does_not_time_names_what_does(device, workload, named):
    reason = why_not(ONNXRUNTIME, device, workload) or ""
    assert named in reason
    assert "eager" in reason
    assert default_runtime("classification", device, workload) == EAGER


def test_text_decoders_stay_eager():
    assert default_runtime("causal_lm", "cpu", Workload()) == EAGER
    assert default_runtime("masked_lm", "cpu", Workload()) == ONNXRUNTIME
