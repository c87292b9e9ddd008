"""What a recipe leaves open, by the length of an example of the space: what is timed, and trainings that stay short.

A step reads about as many tokens in every space, so that a training takes seconds on a processor core, whether an
example has 64 tokens or 4,096; latency is that of a whole example.
"""

from __future__ import annotations

from typing import Any

from searchspace.spec.arch import OpSpec
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

TOKENS_A_STEP = 1024
MOST_TEXTS = 16  # of a step
FEWEST_IMAGES, MOST_IMAGES = 8, 32  # of a step: norms of the batch need a few
STEPS, WARMUP_STEPS = 400, 20
SUPERNET_STEPS, SUPERNET_WARMUP_STEPS = 1200, 50
VALIDATION_TOKENS, FEWEST_TEXTS, MOST_VALIDATED_TEXTS = 16_384, 8, 256  # each token of a text is predicted,
VALIDATION_IMAGES = 500  # of an image one label
TOKENS_AT_ONCE = 8192  # where they are judged


def defaults(space: SpaceSpec) -> dict[str, Any]:
    """Keys of a recipe, as its file holds them."""
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
    """The most tokens that a network with this stem reads at once."""
    if "image_size" not in dict(stem.items):
        return int(stem.get("max_len", Workload().seq_len))
    patches = (stem["image_size"] // stem["patch_size"]) ** 2
    return int(patches + (stem.op == "class_patch_embedding") + stem.get("extra_tokens", 0))
