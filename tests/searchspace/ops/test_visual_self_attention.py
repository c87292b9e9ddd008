"""Visual tokens see themselves alone."""

import torch

from tests.searchspace.ops.identities import assert_equal, build, output
from tests.searchspace.ops.visual import (
    HEADS,
    assert_equals_reference_and_decodes,
    assert_is_softmax_attention_without_an_image,
    plain_of,
    sequence,
)

DEFINING_TERM = ("itself | ~tokens.modality[:, None, :, None]", "~tokens.modality[:, None, :, None]")


def test_a_visual_token_passes_its_own_value_on_and_text_sees_everything():
    for causal in (True, False):
        module, (x, tokens) = build("mixer", "visual_self_attention", causal, **HEADS), sequence()
        assert tokens.modality is not None
        y, visual = output(module, x, tokens), tokens.modality
        own = module.merge_heads(module.per_head(module.v_proj(x).view(2, 11, 2, 4)))
        assert_equal(y[visual], own[visual])
        assert_equal(y[~visual], output(plain_of(module, causal), x)[~visual])
        assert_is_softmax_attention_without_an_image(module, causal)


@torch.no_grad()
def test_with_an_image_it_equals_its_reference_and_decodes():
    module = build("mixer", "visual_self_attention", **HEADS)
    assert_equals_reference_and_decodes(module, "visual_self_attention", *sequence())
