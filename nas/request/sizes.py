"""Default sizes of workload, batches and validation for a recipe, derived from the example length of the space.

A training step reads about TOKENS_A_STEP tokens in every space, so that its time hardly depends on whether an example
has 64 tokens or 4,096; latency is that of one whole example.
"""

from __future__ import annotations

from typing import Any

from searchspace.spec.arch import OpSpec
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

TOKENS_A_STEP = 1024
MOST_TEXTS = 16  # per step
FEWEST_IMAGES, MOST_IMAGES = 8, 32  # per step: batch norms need a few
STEPS, WARMUP_STEPS = 400, 20
SUPERNET_STEPS, SUPERNET_WARMUP_STEPS = 1200, 50
VALIDATION_TOKENS, FEWEST_TEXTS, MOST_VALIDATED_TEXTS = 16_384, 8, 256  # a text has a target for each token,
VALIDATION_IMAGES = 500  # an image one label
TOKENS_AT_ONCE = 8192  # per batch of a validation


def defaults(space: SpaceSpec) -> dict[str, Any]:
    """Default values of recipe keys for `space`, in the form of a recipe file."""
    length = example_length(space.stem)
    if "image_size" in dict(space.stem.items):
        batch, validated = min(max(TOKENS_A_STEP // length, FEWEST_IMAGES), MOST_IMAGES), VALIDATION_IMAGES
    else:
        batch = min(max(TOKENS_A_STEP // length, 1), MOST_TEXTS)
        validated = min(max(VALIDATION_TOKENS // length, FEWEST_TEXTS), MOST_VALIDATED_TEXTS)
    return {
        "validation_examples": validated,
        "batch_size": max(1, TOKENS_AT_ONCE // length),
        "workload": {"seq_len": length},
        "training": {
            "steps": SUPERNET_STEPS,
            "batch_size": batch,
            "warmup_steps": SUPERNET_WARMUP_STEPS,
        },
        "alone": {"steps": STEPS, "batch_size": batch, "warmup_steps": WARMUP_STEPS},
    }


def example_length(stem: OpSpec) -> int:
    """The maximum number of tokens that a network with this stem reads at once."""
    if "image_size" not in dict(stem.items):
        return int(stem.get("max_len", Workload().seq_len))
    patches = (stem["image_size"] // stem["patch_size"]) ** 2
    return int(patches + (stem.op == "class_patch_embedding") + stem.get("extra_tokens", 0))
