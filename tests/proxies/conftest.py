"""Small decoders, and a batch for them."""

import pytest

from proxies.batch import Batch, random_batch
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention

VOCABULARY, MAX_LEN = 16, 8
ATTENTION = plain_attention(1, 2, 8)


def decoder(
    d_model: int = 16,
    d_ff: int = 32,
    ffn: str = "mlp",
    norm: OpSpec = OpSpec("layernorm"),
    num_blocks: int = 2,
    mixer: OpSpec = ATTENTION,
) -> ArchSpec:
    more = {"activation": OpSpec("gelu")} if ffn == "mlp" else {}
    block = BlockSpec(mixer, OpSpec.of(ffn, d_ff=d_ff, **more), norm)
    return ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=VOCABULARY, max_len=MAX_LEN),
        d_model=d_model,
        blocks=(block,) * num_blocks,
        stages=(StageSpec(num_blocks, d_model),),
        head=OpSpec.of("lm_head", vocab_size=VOCABULARY),
        position=NONE,
        final_norm=norm,
    )


def linear_classifier(final_norm: OpSpec = NONE) -> ArchSpec:
    """One linear map of all pixels, then one to the classes."""
    return ArchSpec(
        task="classification",
        stem=OpSpec.of("patch_embedding", image_size=4, patch_size=4, channels=1),
        d_model=6,
        blocks=(),
        stages=(),
        head=OpSpec.of("classifier", num_classes=3),
        final_norm=final_norm,
    )


@pytest.fixture
def batch() -> Batch:
    return random_batch(decoder(), 4, seed=0)
