"""Small networks and spaces that the tests of the search space share."""

from typing import Any

from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention

ATTENTION = plain_attention(1, 2, 4)
MLP = OpSpec.of("mlp", d_ff=16, activation=OpSpec("gelu"))
DENSE = OpSpec.of("dense", bias=False)
BLOCK = BlockSpec(ATTENTION, MLP, OpSpec("rmsnorm"), DENSE)
TEXT = OpSpec.of("token_embedding", vocab_size=11, max_len=32)
IMAGE = OpSpec.of("patch_embedding", image_size=8, patch_size=1, channels=1)
POOLED = OpSpec.of("q_pooling", num_heads=2, head_dim=4)


def decoder(*blocks: BlockSpec, repeats: int = 1, norm: OpSpec = NONE, d_model: int = 8) -> ArchSpec:
    stages = (StageSpec(len(blocks), d_model, repeats=repeats),)
    head = OpSpec.of("lm_head", vocab_size=11)
    return ArchSpec("causal_lm", TEXT, d_model, blocks, stages, head, final_norm=norm)


def encoder(*widths: int, block: BlockSpec = BLOCK) -> ArchSpec:
    """One block in each stage, a Q-pooling before each but the first."""
    stages = tuple(StageSpec(1, w, enter=POOLED if i else NONE) for i, w in enumerate(widths))
    head = OpSpec.of("classifier", num_classes=10)
    return ArchSpec("classification", IMAGE, widths[0], (block,) * len(widths), stages, head)


def tiny_space(**changes: Any) -> dict[str, Any]:
    """What a TOML file would say: few enough settings to count one by one."""
    return {
        "name": "tiny",
        "task": "causal_lm",
        "data": "random",
        "d_model": [8, 16],
        "stem": {"op": "token_embedding", "vocab_size": 11, "max_len": 32},
        "head": {"op": "lm_head", "vocab_size": 11},
        "stages": [{"num_blocks": 2, "depth": [1, 2]}],
        "blocks": {
            "mixer": [{"op": "pooling", "window": [3, 5]}, "none"],
            "ffn": [{"op": "mlp", "d_ff": [16, 32], "activation": "gelu"}, "none"],
            "norm": {"candidates": ["rmsnorm", "layernorm"], "shared": True},
        },
    } | changes
