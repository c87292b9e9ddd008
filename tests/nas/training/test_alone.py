"""A network trained by itself is one whose weights followed its codes and whose statistics are its own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas.training.alone import calibration_batches, train_alone
from nas.training.settings import OptimizerSettings
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


def network(**changes: Any) -> ArchSpec:
    """Of bytes."""
    return replace(
        decoder(replace(BLOCK, **changes)),
        stem=OpSpec.of("token_embedding", vocab_size=256, max_len=CONTEXT),
        head=OpSpec.of("lm_head", vocab_size=256),
    )
