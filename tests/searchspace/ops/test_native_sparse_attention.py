"""Native sparse attention: a gated sum of attention on compressed blocks, on those that matter, and on a window."""

from typing import Any

import torch

from tests.searchspace.ops.identities import activations, attention, build, output

DEFINING_TERM = (
    "matter.masked_fill(~may, -1.0).sort(dim=-1, descending=True",
    "may.int().sort(dim=-1, descending=True",
)
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4}


def sparse(open_gate: int, **items: int) -> Any:
    """With one of the gates open and the others shut, for inputs whose last channel is 1."""
    sizes: dict[str, Any] = {"block": 3, "num_blocks": 2, "window": 3} | items
    module = build("mixer", "native_sparse_attention", **HEADS, **sizes)
    with torch.no_grad():
        weight = module.branch_gate_proj.weight.zero_().view(3, 4, -1)
        weight[..., -1] = -1e4
        weight[open_gate, :, -1] = 1e4
    return module


def full(module: Any, branch: str) -> Any:
    """Softmax attention with the weights of a branch."""
    plain = attention()
    for name, theirs in (("q", "q"), ("k", f"{branch}_key"), ("v", f"{branch}_value"), ("o", "o")):
        getattr(plain, f"{name}_proj").load_state_dict(getattr(module, f"{theirs}_proj").state_dict())
    return plain


def inputs(T: int = 12) -> torch.Tensor:
    x = activations(T)
    x[..., -1] = 1
    return x


def test_a_window_or_chosen_blocks_as_long_as_the_sequence_are_full_attention():
    x = inputs()
    for gate, branch, items in ((1, "chosen", {"num_blocks": 4}), (2, "near", {"window": 12})):
        module = sparse(gate, **items)
        torch.testing.assert_close(output(module, x), output(full(module, branch), x), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_blocks_of_one_token_are_compressed_to_themselves():
    module, x = sparse(0, block=1), inputs()
    torch.testing.assert_close(output(module, x), output(full(module, "block"), x), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_blocks_whose_compressed_keys_have_the_largest_weights_are_chosen():
    """Query 11 chooses block 1 of four; of the other branch's keys it knows nothing."""
    module, x = sparse(1), inputs()
    for name in ("q_proj", "block_key_proj"):
        weight = getattr(module, name).weight.zero_()
        weight[:, 0] = 1
    x[..., 0] = 0.0
    x[:, 3:6, 0], x[:, 11, 0] = 2.0, 1.0
    y = x.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(output(module, y)[0, 11].sum(), y)
    assert gradient[0].any(-1).nonzero().flatten().tolist() == [3, 4, 5, 9, 10, 11]
