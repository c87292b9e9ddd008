"""Restricts a space to networks that a plain transformer class can express: a Llama with equal layers.

All blocks have the same attention, FFN and norm; which blocks exist is decided separately, where the space can leave
blocks out. Every network of the space can then be written by `nas extract --format transformers` and loaded by other
servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from searchspace.spec.arch import OpSpec, Scalar
from searchspace.spec.space import NOTHING, BlockSpace, Candidate, Choice, Domain, Slot, SpaceSpec, StageSpace

PLAIN: Mapping[str, Scalar] = {
    "window": 0,
    "sinks": 0,
    "normalizer": "softmax",
    "qk_norm": "none",
    "score_bias": "none",
    "temperature": "none",
    "keys": "own",
    "rotary": "global",
    "rotary_share": 1.0,
    "output_gate": "none",
    "sink_logit": False,
    "logit_softcap": 0.0,
    "tied_values": False,
    "value_residual": False,
}
ROPE: Mapping[str, Scalar] = {"scaling": "none", "local_base": 0}
HEADS = ("lm_head", "tied_head")


def servable(space: SpaceSpec) -> SpaceSpec:
    """Return the restricted space. Raises ValueError naming the parts of a Llama that the space does not offer."""
    for slot, op, ops in (("stem", space.stem, ("token_embedding",)), ("head", space.head, HEADS)):
        if op.op not in ops:
            raise ValueError(f"its {slot} is {op.op}, and a Llama has {' or '.join(ops)}")
    if _item(space.head, "softcap"):
        raise ValueError("its head bounds the logits by softcap, which a Llama does not")
    if _item(space.head, "bias"):
        raise ValueError("its head has a bias, which a Llama's has not")
    (stage, *more) = space.stages
    if more or stage.enter != NOTHING or stage.leave != NOTHING or stage.repeats.values != (1,):
        raise ValueError("its blocks are more than one plain stage that runs once")
    final = _slot("final_norm", space.final_norm, "rmsnorm", {})
    return replace(
        space,
        position=_slot("position", space.position, "rope", ROPE),
        final_norm=final,
        stages=(_stage(stage, final),),
    )


def _stage(stage: StageSpace, final_norm: Slot) -> StageSpace:
    blocks = [_block(i, block, final_norm) for i, block in enumerate(stage.blocks)]
    for i, block in enumerate(blocks):
        if block != blocks[0]:
            raise ValueError(f"block {i} offers other layers than block 0, and those of a Llama are alike")
    can_be_left_out = all(
        "none" in [c.op for c in slot.candidates] for b in stage.blocks for slot in (b.mixer, b.ffn)
    )
    depth = Choice((len(blocks),)) if can_be_left_out else stage.depth
    return replace(stage, blocks=tuple(blocks), depth=depth, optional=can_be_left_out)


def _block(index: int, block: BlockSpace, final_norm: Slot) -> BlockSpace:
    where = f"block {index}"
    if "pre" not in block.placement.values:
        raise ValueError(
            f"{where} has its norms {' or '.join(map(str, block.placement.values))}, a Llama pre"
        )
    norm = _slot(f"{where} norm", block.norm, "rmsnorm", {})
    if norm.candidates != final_norm.candidates:
        raise ValueError(f"{where} has another norm than the end of the network, and a Llama has one kind")
    return BlockSpace(
        mixer=replace(_slot(f"{where} mixer", block.mixer, "softmax_attention", PLAIN), shared=True),
        ffn=replace(_slot(f"{where} ffn", block.ffn, "swiglu", {}), shared=True),
        norm=replace(norm, shared=True),
        projection=replace(_slot(f"{where} projection", block.projection, "dense", {}), shared=True),
        placement=Choice(("pre",)),
        placement_shared=True,
    )


def _slot(where: str, slot: Slot, op: str, plain: Mapping[str, Scalar]) -> Slot:
    """The slot with one operator, whose items have the plain values where these are given."""
    found = next((c for c in slot.candidates if c.op == op), None)
    if found is None:
        offered = ", ".join(c.op for c in slot.candidates)
        raise ValueError(f"{where} offers {offered}, and a Llama has {op}")
    items = tuple(
        (name, _plain(f"{where} {op}", name, domain, plain[name]) if name in plain else domain)
        for name, domain in found.items
    )
    for name, domain in items:
        if name == "bias" and isinstance(domain, Choice) and any(isinstance(v, str) for v in domain.values):
            raise ValueError(f"{where} has biases in {domain.values[0]} alone, a Llama everywhere or nowhere")
    return Slot((Candidate(op, items),))


def _plain(where: str, name: str, domain: Domain, value: Scalar) -> Domain:
    offered = domain.values if isinstance(domain, Choice) else [c.op for c in domain.candidates]
    if value not in offered:
        raise ValueError(f"{where} has {name} {' or '.join(map(str, offered))}, and a Llama {value}")
    return Choice((value,)) if isinstance(domain, Choice) else Slot.fixed(str(value))


def _item(op: OpSpec, name: str) -> object:
    return dict(op.items).get(name)
