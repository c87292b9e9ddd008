"""A stage on blocks hands every token what the blocks before its own say, and nothing of its own block."""

from typing import Any

import pytest
import torch
from torch import Tensor

from searchspace import registry
from searchspace.cost import cost
from searchspace.model import Model
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.spec.arch import ArchSpec, OpSpec, StageSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid
from tests.searchspace.archs import BLOCK, TEXT
from tests.searchspace.ops.identities import D, activations, assert_equal, build

DEFINING_TERM = ("filling[:, : count * L]", "filling[:, filling.shape[1] - count * L :]")
L = 3


def both_ends() -> tuple[Any, Any]:
    """Into a stage of width 20 and back."""
    back = BuildContext(20, layout=Layout(22, stride=L), d_next=D)
    way_back: Any = registry.build("way_back", OpSpec.of("block_embedding", block_len=L), back)
    return build("transition", "block_embedding", block_len=L), way_back.double()


def network(block_len: int = L) -> ArchSpec:
    """A block on tokens, two on blocks of tokens, one on tokens."""
    enter = OpSpec.of("block_embedding", block_len=block_len)
    stages = (StageSpec(1, 8), StageSpec(2, 16, enter=enter), StageSpec(1, 8))
    head = OpSpec.of("lm_head", vocab_size=11)
    return ArchSpec("causal_lm", TEXT, 8, (BLOCK,) * 4, stages, head)


@pytest.mark.parametrize("T", [1, L, 2 * L, 2 * L + 1])
def test_an_empty_stage_adds_a_linear_map_of_the_block_before(T: int):
    (enter, way_back), x = both_ends(), activations(T)
    entries, tokens, saved = enter(x, Tokens())
    assert entries.shape == (2, -(-T // L), 20)
    y, _, kept = way_back(entries, tokens, saved)
    assert kept is None
    parts = way_back.expand_proj.weight.unflatten(0, (L, D))
    for t in range(T):
        b = t // L
        before = enter.start if b == 0 else x[:, (b - 1) * L : b * L].flatten(1) @ enter.block_proj.weight.T
        assert_equal(y[:, t], x[:, t] + before @ parts[t % L].T)


def test_a_token_sees_its_own_block_only_as_a_token():
    """Through the stage it is reached by whole blocks before its own: none of the rest, also not within its block."""
    (enter, way_back), x = both_ends(), activations(3 * L).requires_grad_()
    entries, tokens, saved = enter(x, Tokens())
    mixed = entries.cumsum(1)
    y = way_back(mixed, tokens, saved)[0] - x
    for t in range(3 * L):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        assert gradient.any(-1).any(0).tolist() == [s < t // L * L for s in range(3 * L)]


def test_a_stage_that_says_nothing_leaves_the_plain_network():
    model = Model(network()).double().eval()
    with torch.no_grad():
        model.part("stages.1.way_back").expand_proj.weight.zero_()
    plain = (
        Model(ArchSpec("causal_lm", TEXT, 8, (BLOCK,) * 2, (StageSpec(2, 8),), network().head))
        .double()
        .eval()
    )
    for name, origin in (
        ("stem", "stem"),
        ("head", "head"),
        ("blocks.0", "blocks.0"),
        ("blocks.1", "blocks.3"),
    ):
        plain.part(name).load_state_dict(model.part(origin).state_dict())
    ids = torch.randint(0, 11, (2, 10))
    assert torch.equal(model(ids)[0], plain(ids)[0])


@pytest.mark.parametrize("n", [1, L - 1, L, L + 1, 4 * L, 4 * L + 2])
def test_a_decoder_holds_one_entry_for_each_block_and_what_the_cost_says(n: int):
    model = Model(network()).eval()
    _, state = model(torch.randint(0, 11, (1, n)), state=model.init_state(1))
    assert state["blocks.1@0"]["mixer"]["k"].shape[1] == -(-n // L)
    expected = cost(network(), Workload("prefill", seq_len=n)).state_bytes
    assert sum(t.nbytes for t in tensors(state)) == expected


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [t for value in state.values() for t in tensors(value)] if isinstance(state, dict) else []


def test_a_decoding_step_counts_the_stage_once_in_a_block():
    """At S = L n tokens the step's share is 1 / L of what one entry costs with n keys."""
    S = 6 * L
    step = cost(network(), Workload("decode", context_len=S - 1)).flops
    on_tokens = cost(
        ArchSpec("causal_lm", TEXT, 8, (BLOCK,) * 2, (StageSpec(2, 8),), network().head), step_at(S)
    ).flops
    wide = ArchSpec("causal_lm", TEXT, 16, (BLOCK,) * 2, (StageSpec(2, 16),), network().head)
    entry = cost(wide, step_at(6)).flops - 2 * 16 * 11  # without its head
    ends = 2 * (2 * L * 8 * 16)  # there and back
    assert step - on_tokens == (entry + ends) // L


def step_at(num_keys: int) -> Workload:
    return Workload("decode", context_len=num_keys - 1)


def test_padding_on_the_right_has_no_influence():
    (enter, way_back), x = both_ends(), activations(8)
    valid = torch.arange(8).expand(2, 8) < 5
    entries, tokens, saved = enter(x, Tokens(valid=valid))
    short, short_tokens, short_saved = enter(x[:, :5], Tokens())
    assert_equal(entries[:, :2], short)
    assert_equal(way_back(entries, tokens, saved)[0][:, :5], way_back(short, short_tokens, short_saved)[0])


def test_a_stage_with_a_way_back_has_no_other_leave():
    arch = network()
    stage = StageSpec(2, 16, enter=arch.stages[1].enter, leave=OpSpec.of("block_embedding", block_len=L))
    spoiled = ArchSpec("causal_lm", TEXT, 8, arch.blocks, (arch.stages[0], stage, arch.stages[2]), arch.head)
    assert why_invalid(arch) is None
    assert why_invalid(spoiled) == "stage 1: block_embedding has a way back of its own, so leave must be none"
