"""Structures that stages express: blocks before, in and behind a loop; deep and shallow stages; ways back to tokens."""

import pytest
import torch

from searchspace.cost import cost
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, OpSpec, StageSpec
from searchspace.spec.workload import Workload
from tests.searchspace.archs import BLOCK, TEXT, encoder

LOOPS = 3
IDS = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(0))


def staged(*stages: StageSpec, d_model: int = 8) -> ArchSpec:
    """A decoder of equal blocks."""
    blocks = (BLOCK,) * sum(stage.num_blocks for stage in stages)
    head = OpSpec.of("lm_head", vocab_size=11)
    return ArchSpec("causal_lm", TEXT, d_model, blocks, stages, head, final_norm=OpSpec("rmsnorm"))


def pre_loop_post(repeats: int) -> ArchSpec:
    return staged(StageSpec(1, 8), StageSpec(2, 8, repeats=repeats), StageSpec(1, 8))


def unrolled() -> tuple[Model, list[int]]:
    """The network without a loop, and which block of the looped one each of its blocks copies."""
    copied = [0, *[1, 2] * LOOPS, 3]
    return Model(staged(StageSpec(len(copied), 8))).double().eval(), copied


def copy_blocks(source: Model, target: Model, copied: list[int]) -> None:
    for i, origin in enumerate(copied):
        target.part(f"blocks.{i}").load_state_dict(source.part(f"blocks.{origin}").state_dict())
    for name in ("stem", "head", "final_norm"):
        target.part(name).load_state_dict(source.part(name).state_dict())


def test_a_loop_between_two_stages_is_its_blocks_applied_by_hand():
    model = Model(pre_loop_post(LOOPS)).double().eval()
    x, tokens = model.part("stem")(IDS, Tokens())
    order = [0, *[1, 2] * LOOPS, 3]
    for i in order:
        x, _ = model.part(f"blocks.{i}")(x, tokens)
    x, _ = model.part("final_norm")(x, tokens)
    assert torch.equal(model(IDS)[0], model.part("head")(x, tokens))


def test_a_looped_weight_gets_the_sum_of_the_gradients_of_its_copies():
    looped, (plain, copied) = Model(pre_loop_post(LOOPS)).double().eval(), unrolled()
    copy_blocks(looped, plain, copied)
    cotangent = torch.randn(2, 9, 11, dtype=torch.float64)
    for model in (looped, plain):
        model(IDS)[0].backward(cotangent)
    for origin in range(4):
        for name, weight in looped.part(f"blocks.{origin}").named_parameters():
            copies = [
                plain.get_parameter(f"blocks.{i}.{name}").grad for i, o in enumerate(copied) if o == origin
            ]
            torch.testing.assert_close(weight.grad, sum(copies), rtol=1e-10, atol=1e-12)


def test_every_execution_of_a_looped_block_keeps_a_state_of_its_own():
    model = Model(pre_loop_post(LOOPS)).double().eval()
    state = model.init_state(2, dtype=torch.float64)
    assert sum("@" in name for name in state) == 2 + 2 * LOOPS
    logits = []
    for t in range(9):
        y, state = model(IDS[:, t : t + 1], state=state)
        logits.append(y)
    torch.testing.assert_close(torch.cat(logits, 1), model(IDS)[0], rtol=1e-10, atol=1e-10)


def test_a_loop_is_stored_once_and_computed_and_cached_each_time():
    once, looped = (cost(pre_loop_post(r), Workload(seq_len=9)) for r in (1, LOOPS))
    pair, quad = (cost(staged(StageSpec(n, 8)), Workload(seq_len=9)) for n in (2, 4))
    assert looped.parameters == once.parameters
    assert looped.flops - once.flops == (LOOPS - 1) * (quad.flops - pair.flops)
    assert looped.state_bytes - once.state_bytes == (LOOPS - 1) * (quad.state_bytes - pair.state_bytes)


def test_one_deep_stage_among_shallow_ones_is_the_plain_stack():
    """Where the depth lies is only a matter of how blocks are counted."""
    shallow = staged(StageSpec(1, 8), StageSpec(4, 8), StageSpec(1, 8))
    model, plain = Model(shallow).double().eval(), Model(staged(StageSpec(6, 8))).double().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(IDS)[0], plain(IDS)[0])


def test_a_network_that_needs_the_whole_sequence_does_not_decode():
    with pytest.raises(
        ValueError, match=r"stages\.1: q_pooling keeps no state, so this network can't decode"
    ):
        Model(encoder(8, 16)).init_state(1)
