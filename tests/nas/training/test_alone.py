"""A network trained by itself is one whose weights followed its codes and whose statistics are its own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.errors import ArtifactError
from nas.training.alone import Training, calibration_batches, train_alone
from nas.training.settings import OptimizerSettings
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.recalibration import calibrate, set_statistics
from searchspace.spec.arch import ArchSpec, OpSpec
from tests.nas.training.toy import CONTEXT, task
from tests.searchspace.archs import BLOCK, decoder

SETTINGS = OptimizerSettings(steps=8, batch_size=4, warmup_steps=1)
HASHED = OpSpec.of("eco_hash", num_groups=1, head_dim=4, num_anchors=4, num_bits=4)


def test_codes_are_set_while_there_is_training_left_to_follow_them(tmp_path: Path):
    text = task(tmp_path)
    model = train_alone(network(mixer=HASHED), text, SETTINGS).model
    anchors = model.get_buffer("blocks.0.mixer.hash_anchors")
    torch.testing.assert_close(
        anchors.norm(dim=-1), torch.ones(anchors.shape[:-1])
    )  # tokens, not the random start
    again = deepcopy(model)
    calibrate(again, [b.inputs for b in calibration_batches(text, SETTINGS.batch_size)])
    assert not torch.equal(again.get_buffer("blocks.0.mixer.hash_anchors"), anchors)


def test_statistics_are_those_of_the_trained_weights(tmp_path: Path):
    text = task(tmp_path)
    model = train_alone(network(norm=OpSpec("batchnorm")), text, SETTINGS).model
    again = deepcopy(model)
    set_statistics(again, [b.inputs for b in calibration_batches(text, SETTINGS.batch_size)])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), again.buffers(), strict=True))


def test_a_network_is_judged_as_it_is_at_that_moment_of_its_schedule(tmp_path: Path):
    """PRepBN is layer normalisation before the first step, and one half of it after half of its turn."""
    text = task(tmp_path)
    turning = Training(network(norm=OpSpec.of("prepbn", share=1.0)), text, SETTINGS)
    ids = calibration_batches(text, SETTINGS.batch_size)[0].inputs
    start, layer = turning.trained(), Model(network(norm=OpSpec("layernorm"))).eval()
    weights = {
        n.replace("layer_", ""): t
        for n, t in start.state_dict().items()
        if "_norm_" not in n or "layer_" in n
    }
    layer.load_state_dict(weights)
    torch.testing.assert_close(start(ids)[0], layer(ids)[0])
    path = tmp_path / "half.safetensors"
    turning.run(SETTINGS.steps // 2)
    turning.save(path, {})
    half = turning.trained()
    norm, x = half.part("blocks.0.mixer_norm_in"), half.part("stem").weight[ids]
    mixed = [norm(x, Tokens(progress=progress))[0] for progress in (0.0, 1.0)]
    torch.testing.assert_close(norm(x, Tokens(progress=half.progress))[0], sum(mixed) / 2)
    again = Training(turning.arch, text, SETTINGS)
    again.restored(path)
    assert torch.equal(again.trained()(ids)[0], half(ids)[0])
    turning.run(SETTINGS.steps)
    assert turning.trained().progress == 1


def network(**changes: Any) -> ArchSpec:
    """Of bytes."""
    return replace(
        decoder(replace(BLOCK, **changes)),
        stem=OpSpec.of("token_embedding", vocab_size=256, max_len=CONTEXT),
        head=OpSpec.of("lm_head", vocab_size=256),
    )


def test_a_training_that_was_saved_goes_on_bit_for_bit(tmp_path: Path):
    text = task(tmp_path)
    arch, path = network(norm=OpSpec("batchnorm")), tmp_path / "one.safetensors"
    whole = Training(arch, text, SETTINGS)
    whole.run(SETTINGS.steps)
    first = Training(arch, text, SETTINGS)
    first.run(SETTINGS.steps // 2)
    first.save(path, {"3": 1.5})
    again = Training(arch, text, SETTINGS)
    assert again.restored(path) == {"3": 1.5}
    again.run(SETTINGS.steps)
    assert again.losses == whole.losses
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_what_belongs_to_another_training_or_is_cut_short_is_refused(tmp_path: Path):
    text = task(tmp_path)
    path = tmp_path / "one.safetensors"
    Training(network(), text, SETTINGS).save(path, {})
    other = Training(network(), text, SETTINGS.with_seed(SETTINGS.seed + 1))
    with pytest.raises(ArtifactError, match=r"belongs to another training.*delete the file to train again"):
        other.restored(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="can't be continued"):
        Training(network(), text, SETTINGS).restored(path)
