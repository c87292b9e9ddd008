"""The graph that is timed is the one that is handed out: after onnxruntime's optimizations, the same operations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.export.graph import given, trace
from nas.export.onnx_file import write_onnx
from nas.importing.load import import_model
from predictors.network_bench import stem_inputs
from predictors.onnx_graphs import Graphs
from predictors.onnx_network import network_graph
from predictors.onnxruntime_bench import folded
from predictors.profiling import random_models
from searchspace.load import load_space
from searchspace.model import Model
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from tests.nas.importing.test_families import TEXT, saved

WORKLOAD = Workload(seq_len=16)


def drawn(space: str, count: int, seed: int) -> list[Model]:
    return list(random_models(sample(Encoding(load_space(space)), count, seed, WORKLOAD)).values())


def operations(model: Any, path: Path) -> Counter[str]:
    """How often each operation is in the graph that onnxruntime runs of a model, or of a file."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = str(path)
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(f"{node.domain} {node.op_type}" for node in onnx.load(path).graph.node)


def same_graph(model: Model, folder: Path) -> None:
    inputs = stem_inputs(model.arch.stem, WORKLOAD, WORKLOAD.seq_len, "cpu")
    model = folded(model, inputs)
    examples = torch.cat([inputs] * 4)
    graph = trace(model, examples)
    run = write_onnx(graph, examples, folder / "model.onnx")
    made = network_graph(model, inputs, Graphs(folder))
    assert [value.name for value in made.graph.input] == list(given(graph, inputs))
    with torch.no_grad():
        torch.testing.assert_close(run(inputs), model(inputs)[0], rtol=1e-4, atol=1e-4)
    timed, written = operations(made, folder / "timed"), operations(folder / "model.onnx", folder / "written")
    assert timed == written, f"timed more: {timed - written}; written more: {written - timed}"


@pytest.mark.slow
@pytest.mark.parametrize(("space", "seed"), [("small-lm", 0), ("small-lm", 1), ("vision", 0)])
def test_a_network_of_a_space_is_timed_as_it_is_written(tmp_path: Path, space: str, seed: int) -> None:
    for model in drawn(space, 2, seed):
        same_graph(model, tmp_path)


def test_an_imported_encoder_is_timed_as_it_is_written(tmp_path: Path) -> None:
    saved("BertModel", TEXT, tmp_path / "theirs")
    found, _ = import_model(tmp_path / "theirs", tmp_path / "ours")
    same_graph(found.model(), tmp_path)
