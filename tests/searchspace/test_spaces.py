"""The built-in spaces: every one is described and gives valid networks that run on its task's inputs."""

import numpy as np
import pytest
import torch

from proxies.batch import random_batch
from searchspace.load import builtin_spaces, load_space
from searchspace.model import Model
from searchspace.sampling import Tally, valid_architectures
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload


@pytest.mark.parametrize("name", builtin_spaces())
def test_at_least_half_of_the_random_architectures_are_valid_and_one_runs(name: str):
    space, tally = load_space(name), Tally()
    assert space.description
    assert space.name == name
    draws = valid_architectures(Encoding(space), np.random.default_rng(0), Workload(), tally)
    archs = [next(draws)[1] for _ in range(50)]
    assert 2 * tally.valid >= tally.drawn
    batch = random_batch(space, batch_size=2, seed=0)
    with torch.no_grad():
        logits = Model(archs[0]).eval()(batch.inputs)[0]
    assert logits.isfinite().all()
    assert logits.shape[:-1] == batch.targets.shape


def test_flexibert_holds_the_published_space():
    """2 or 4 heads of width / heads channels at each width, for every mixer; half of span_conv's heads attend."""
    space = load_space("flexibert").to_json()
    (stage,) = space["stages"]
    assert (space["d_model"], stage["depth"]) == ([128, 256], [2, 4])
    for block in stage["blocks"]:
        mixers = {c["op"]: c for c in block["mixer"]["candidates"]}
        assert set(mixers) == {"softmax_attention", "fourier_mixing", "span_conv"}
        for name, items in mixers.items():
            heads = [n * (2 if name == "span_conv" else 1) for n in items["num_groups"]]
            assert heads == [2, 4]
            assert {d // h for d in space["d_model"] for h in heads} <= set(items["head_dim"])
        assert mixers["span_conv"]["kernel_size"] == [5, 9]
        assert mixers["fourier_mixing"]["transform"] == ["dft", "dct"]
        qk_norms = mixers["softmax_attention"]["qk_norm"]["candidates"]
        assert [c["op"] for c in qk_norms] == ["none", "weighted_query"]
        (ffn,) = block["ffn"]["candidates"]
        assert (ffn["op"], ffn["d_ff"], ffn["num_hidden"]) == ("deep_mlp", [512, 1024], [1, 3])
