"""Text around an image of 2 x 3 tokens, for the tests of designs that treat visual tokens in their own way."""

from typing import Any

import torch
from torch import Tensor

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, attention, output

HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4}


def sequence() -> tuple[Tensor, Tokens]:
    """Eleven tokens; the second sequence has its image two tokens later."""
    modality = torch.zeros(2, 11, dtype=torch.bool)
    modality[0, 2:8] = modality[1, 4:10] = True
    return activations(11), Tokens(modality=modality, grid=(2, 3))


def plain_of(module: Any, causal: bool = True) -> Any:
    """Softmax attention with the same projections."""
    plain = attention(causal)
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if "proj" in n})
    return plain


def assert_is_softmax_attention_without_an_image(module: Any, causal: bool = True) -> None:
    x = activations(11)
    none = Tokens(modality=torch.zeros(2, 11, dtype=torch.bool), grid=(2, 3))
    for tokens in (Tokens(), none):
        assert_equal(output(module, x, tokens), output(plain_of(module, causal), x))


def assert_equals_reference_and_decodes(module: Any, name: str, x: Tensor, tokens: Tokens) -> None:
    """With an image, which the contracts' inputs don't have."""
    reference: Any = registry.operator("mixer", name).reference
    expected = reference(module, x, tokens)
    assert_equal(output(module, x, tokens), expected)
    state, outputs = module.init_state(2, x.device, x.dtype), []
    for part in (slice(0, 6), slice(6, 7), slice(7, 11)):
        assert tokens.modality is not None
        y, state = module(x[:, part], tokens.replace(modality=tokens.modality[:, part]), state)
        outputs.append(y)
    assert_equal(torch.cat(outputs, 1), expected)
    assert not torch.allclose(expected, output(plain_of(module), x))
