"""Cases that contracts run on: settings of every registered operator, built with random weights, and inputs for them.

A registered operator is covered automatically. `quick` draws a few settings that together cover every value of every
hyperparameter; `exhaustive` is their product.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from searchspace import registry
from searchspace.cost import on_meta
from searchspace.primitives.axes import Axis, declared_tensors
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.validity import why_op_invalid

D = 24
CAUSAL = BuildContext(D, num_layers=2, causal=True, layout=Layout(64), d_next=40)
BIDIRECTIONAL = BuildContext(D, num_layers=2, causal=False, layout=Layout(64, (8, 8)), d_next=40)
BATCH = 2
DRAWS = 64
ROPE = OpSpec.of("rope", base=10000, dim=32, local_base=100)
OUT, IN = Axis.of(G=2, K=8), Axis.of(D=D)  # axes of a projection tested alone


@dataclass(frozen=True)
class Case:
    """One setting of one operator in one context; `rank` is its index among the settings drawn of the operator."""

    slot: str
    spec: OpSpec
    context: BuildContext
    rank: int = 0

    @property
    def entry(self) -> Operator:
        return registry.operator(self.slot, self.spec.op)

    @property
    def causal(self) -> bool:
        return self.context.causal

    @property
    def extra(self) -> tuple[Any, ...]:
        """Further arguments of the build function after spec and context."""
        return {"projection": ("q", OUT, IN), "feature_map": (2, D // 2)}.get(self.slot, ())

    def on_meta(self) -> nn.Module:
        if not self.extra:
            return on_meta(self.slot, self.spec, self.context)
        with torch.device("meta"):
            return registry.build(self.slot, self.spec, self.context, *self.extra)

    def build(self) -> nn.Module:
        """Return the module in evaluation mode, calibrated, with random weights also where an operator starts at 0."""
        module = registry.build(self.slot, self.spec, self.context, *self.extra).eval()
        randomize(module)
        if self.entry.calibrate is not None:
            self.entry.calibrate(module, [inputs(self, 32)])
        return module

    def __str__(self) -> str:
        kind = "causal" if self.causal else "bidirectional"
        return f"{self.slot}-{self.spec}-{kind}".replace(" ", "")


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    for tensor, (_, declared) in zip(tensors(module), declared_tensors(module), strict=True):
        noise = torch.randn_like(tensor)
        if declared.role == "parameter":
            tensor.add_(noise, alpha=0.2)
        elif declared.role == "statistic":
            tensor.add_(noise.abs())


def tensors(module: nn.Module) -> list[Tensor]:
    """Return the declared tensors, each [...], in the order of declaration."""
    found = dict(module.named_parameters()) | dict(module.named_buffers())
    return [found[name] for name, _ in declared_tensors(module)]


# settings


def configurations(slot: str, name: str) -> Iterator[OpSpec]:
    """Yield every setting of an operator from its registered choices and options."""
    entry = registry.operator(slot, name)
    domains = sorted(entry.searched.items())
    for items in product(*([(item, v) for v in _values(domain)] for item, domain in domains)):
        yield _spec(entry, items)


def _spec(entry: Operator, items: Iterable[tuple[str, Any]]) -> OpSpec:
    """The spec without options at their default."""
    said = (i for i in items if i[0] not in entry.options or i[1] != entry.options[i[0]][0])
    return OpSpec(entry.name, tuple(said))


def _values(domain: registry.Domain) -> Sequence[Any]:
    if isinstance(domain, Nested):
        return [spec for name in domain.candidates for spec in configurations(domain.slot, name)]
    return domain


def settings(slot: str, name: str, limit: int) -> list[OpSpec]:
    """Return every setting of an operator, or a random `limit` of them if there are more."""
    found = list(islice(configurations(slot, name), limit + 1))
    if len(found) <= limit:
        return found
    rng = random.Random(name)
    return list(dict.fromkeys(drawn(slot, name, rng) for _ in range(limit)))


def drawn(slot: str, name: str, rng: random.Random) -> OpSpec:
    entry = registry.operator(slot, name)
    return _spec(entry, ((item, _drawn_value(d, rng)) for item, d in sorted(entry.searched.items())))


def _drawn_value(domain: registry.Domain, rng: random.Random) -> Any:
    if isinstance(domain, Nested):
        return drawn(domain.slot, rng.choice(domain.candidates), rng)
    return rng.choice(domain)


def contexts(entry: Operator) -> list[BuildContext]:
    allowed = [(CAUSAL, entry.causal), (BIDIRECTIONAL, entry.bidirectional)]
    return [context for context, is_allowed in allowed if is_allowed]


def operators(*slots: str) -> list[Operator]:
    return [e for e in registry.operators().values() if e.name != "none" and (not slots or e.slot in slots)]


def quick(*slots: str, causal: bool | None = None) -> list[Case]:
    """Return valid settings that together cover every value of a valid setting."""
    return [
        case
        for entry in operators(*slots)
        for context in contexts(entry)
        if causal in (None, context.causal)
        for case in _quick(entry.slot, entry.name, context)
    ]


@cache
def _quick(slot: str, name: str, context: BuildContext) -> tuple[Case, ...]:
    """Draw settings while one has a new value, then drop those whose values the others cover."""
    rng, taken = random.Random(name), Counter[tuple[str, Any]]()
    found: list[OpSpec] = []
    for _ in range(DRAWS):
        spec = drawn(slot, name, rng)
        if why_op_invalid(slot, spec, context) is None and (not found or set(spec.items) - set(taken)):
            taken.update(spec.items)
            found.append(spec)
    for spec in list(found):
        if len(found) > 1 and all(taken[item] > 1 for item in spec.items):
            taken.subtract(spec.items)
            found.remove(spec)
    return tuple(Case(slot, spec, context, rank) for rank, spec in enumerate(found))


def exhaustive(*slots: str) -> list[tuple[Operator, BuildContext]]:
    """Return one test parameter per operator and context; the test iterates over `settings`."""
    return [(entry, context) for entry in operators(*slots) for context in contexts(entry)]


# inputs and runs


def lengths(case: Case) -> tuple[int, ...]:
    """Return lengths around the chunk size of the recurrent forms, or grids with even sides for transitions."""
    return (4, 16, 48) if case.slot == "transition" else (1, 15, 16, 17, 50)


def inputs(case: Case, T: int, batch_size: int = BATCH) -> tuple[Tensor, Tokens]:
    """Return random activations [B, T, D] and the facts about their tokens."""
    return torch.randn(batch_size, T, D), tokens(case, T)


def tokens(case: Case, T: int, device: str = "cpu") -> Tokens:
    positions = torch.arange(T, device=device)
    rope = registry.build("position", ROPE, case.context)
    made = rope(
        torch.empty(0, device=device), Tokens(positions=positions, grid=None if case.causal else grid(T))
    )[1]
    facts = made if isinstance(made, Tokens) else Tokens()
    rows = case.spec.get("vocab_size") if case.slot == "head" else None  # rows of the stem's embedding
    return facts if rows is None else facts.replace(embedding=torch.randn(rows, D, device=device))


def grid(T: int) -> tuple[int, int]:
    rows = max(r for r in range(1, math.isqrt(T) + 1) if T % r == 0)
    return rows, T // rows


def run(case: Case, module: nn.Module, x: Tensor, facts: Tokens) -> Tensor:
    """Return an operator's output [B, ...] for x [B, T, D]; a normalizer or score bias serves one head [B, 1, T, T]."""
    if case.slot in ("projection", "activation"):
        return module(x)
    if case.slot == "normalizer":
        return module(scores_of(x), visible_of(case, x, facts))
    if case.slot == "feature_map":
        return module(vectors_of(x))
    if case.slot == "qk_norm":
        return torch.cat(module(*one_head(x)), 2)
    if case.slot == "score_bias":
        return scores_of(x) + module(distances(x))
    y = module(x, facts)
    return y[0] if isinstance(y, tuple) else y


def run_reference(case: Case, module: nn.Module, x: Tensor, facts: Tokens) -> Tensor:
    """Return what `run` returns for x [B, T, D], computed by the operator's reference."""
    assert case.entry.reference is not None
    if case.slot in ("projection", "activation"):
        return case.entry.reference(module, x)
    if case.slot == "normalizer":
        return case.entry.reference(module, scores_of(x), visible_of(case, x, facts))
    if case.slot == "feature_map":
        return case.entry.reference(module, vectors_of(x))
    if case.slot == "qk_norm":
        return case.entry.reference(module, *one_head(x))
    if case.slot == "score_bias":
        return scores_of(x) + case.entry.reference(module, distances(x))
    return case.entry.reference(module, x, facts)


def one_head(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T, D] -> queries and keys [B, T, 1, 16]."""
    return x[:, :, None, :16], x[:, :, None, -16:]


def distances(x: Tensor) -> Tensor:
    """x [B, T, D] -> distances i - j [T, T]."""
    places = torch.arange(x.shape[1], device=x.device)
    return places[:, None] - places[None, :]


def scores_of(x: Tensor) -> Tensor:
    """[B, T, D] -> scores [B, 1, T, T]."""
    return (x @ x.transpose(1, 2)).unsqueeze(1)


def vectors_of(x: Tensor) -> Tensor:
    """[B, T, D] -> vectors of two groups with one head each [B, T, 2, 1, D / 2]."""
    return x.unflatten(-1, (2, 1, D // 2))


def visible_of(case: Case, x: Tensor, facts: Tokens) -> Tensor:
    """Return which keys each query sees, [T, T], or [B, 1, T, T] with padding."""
    visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
    visible = visible.tril() if case.causal else visible
    return visible if facts.valid is None else visible & facts.valid[:, None, None, :]


# whole networks


def network(case: Case, vocab_size: int = 16, on_text: bool = False) -> ArchSpec:
    """Return a network of two blocks with the operator in its slot, on images if bidirectional unless `on_text`."""
    attention = plain_attention(1, 2, 16)
    mlp, dense = OpSpec.of("mlp", d_ff=32, activation=OpSpec("gelu")), OpSpec.of("dense", bias=False)
    block = BlockSpec(attention, mlp, OpSpec("rmsnorm"), dense)
    in_slot: dict[str, Any] = {case.slot: case.spec}
    if case.slot in ("normalizer", "qk_norm", "score_bias"):
        items = dict(attention.items) | {case.slot: case.spec}
        block = replace(block, mixer=OpSpec.of("softmax_attention", **items))
    elif case.slot == "feature_map":
        heads: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 16}
        block = replace(block, mixer=OpSpec.of("linear_attention", **heads, feature_map=case.spec))
    elif case.slot == "activation":
        block = replace(block, ffn=OpSpec.of("mlp", d_ff=32, activation=case.spec))
    elif case.slot in ("mixer", "ffn", "norm", "projection"):
        block = replace(block, **in_slot)
    rows = case.spec.get("vocab_size", vocab_size) if case.slot == "head" else vocab_size
    text = OpSpec.of("token_embedding", vocab_size=rows, max_len=64)
    image = OpSpec.of("patch_embedding", image_size=8, patch_size=1, channels=1)
    ends: dict[str, Any] = {
        "stem": text if case.causal or on_text else image,
        "head": OpSpec.of("lm_head", vocab_size=vocab_size)
        if case.causal
        else OpSpec.of("classifier", num_classes=10),
        "position": ROPE,
    }
    enter = case.spec if case.slot in ("transition", "way_back") else NONE
    width = D if enter == NONE else case.context.d_next
    return ArchSpec(
        task="causal_lm" if case.causal else "classification",
        d_model=D,
        blocks=(block, block),
        stages=(StageSpec(1, D), StageSpec(1, width, enter=enter)),
        final_norm=OpSpec("rmsnorm"),
        **(ends | (in_slot if case.slot in ends else {})),
    )


def network_inputs(arch: ArchSpec, T: int = 20, batch_size: int = BATCH) -> Tensor:
    """Return random token ids [B, T] or images [B, 1, 8, 8]."""
    if arch.stem.op == "token_embedding":
        return torch.randint(0, arch.stem["vocab_size"], (batch_size, T))
    return torch.rand(batch_size, 1, 8, 8)
