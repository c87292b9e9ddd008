"""Architectures of a space as vectors of small integers, and back.

A `Variable` is one decision: an index into its values. Some decisions exist only under others (the window of a chosen
attention, the blocks within the chosen depth); the gene of a decision that does not exist is 0, so two canonical
genomes differ only where their architectures differ in a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import lt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchspace.spec.arch import (
    INACTIVE,
    NONE,
    ArchSpec,
    BlockSpec,
    Format,
    OpSpec,
    QuantPolicy,
    StageSpec,
    Value,
)
from searchspace.spec.space import BlockSpace, Choice, QuantSpace, Slot, SpaceSpec, StageSpace

SHARED_OR_NOT = ("shared", NONE.op)  # the shared mixer, or no mixer and no block
STATE = "state"  # the role of a mixer's decoding state
Genome = tuple[int, ...]
Genomes = NDArray[np.int64]  # [n, V]


@dataclass(frozen=True)
class Variable:
    """`parent` must have one of the values `when` (indices) for this decision to exist."""

    name: str
    values: tuple[Any, ...]
    parent: int | None = None
    when: tuple[int, ...] = ()

    @property
    def is_format(self) -> bool:
        """Whether it chooses a number format, which does not affect training."""
        return ".quant." in self.name


@dataclass(frozen=True)
class _SlotGenes:
    """Indices of the decisions of one slot: the candidate, then the items of each candidate."""

    which: int
    candidates: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]

    def indices(self) -> list[int]:
        found = [self.which]
        for _, items in self.candidates:
            for _, place in items:
                found += place.indices() if isinstance(place, _SlotGenes) else [place]
        return found


@dataclass(frozen=True)
class _BlockGenes:
    mixer: _SlotGenes
    ffn: _SlotGenes
    norm: _SlotGenes
    projection: _SlotGenes
    placement: int
    quant: tuple[tuple[QuantSpace, int], ...]
    is_there: int | None = None  # of an optional block, in place of its mixer, which is shared

    def indices(self) -> list[int]:
        slots = self.mixer, self.ffn, self.norm, self.projection
        return [i for s in slots for i in s.indices()] + [self.placement] + [i for _, i in self.quant]


@dataclass(frozen=True)
class _StageGenes:
    depth: int
    width_ratio: int
    repeats: int
    enter: _SlotGenes
    leave: _SlotGenes
    blocks: tuple[_BlockGenes, ...]


class Encoding:
    """The decisions of a space in a fixed order, parents first."""

    def __init__(self, space: SpaceSpec) -> None:
        self.space = space
        self.variables: list[Variable] = []
        self._shared_slots: dict[str, _SlotGenes] = {}
        self._shared_places: dict[str, int] = {}
        self._d_model = self._add("d_model", space.d_model.values)
        self._position = self._add_slot("position", space.position)
        self._final_norm = self._add_slot("final_norm", space.final_norm)
        self._stages = tuple(self._add_stage(i, s) for i, s in enumerate(space.stages))
        self.num_values = np.array([len(v.values) for v in self.variables], dtype=np.int64)
        self._sizes = tuple(self.num_values.tolist())
        self._conditions = self._by_generation()
        self._read_block: Callable[[_BlockGenes, Genome], BlockSpec] = lru_cache(1 << 16)(self._decode_block)
        self._read_stage = lru_cache(1 << 12)(StageSpec)

    def __len__(self) -> int:
        return len(self.variables)

    # building the list of variables

    def _add(
        self, name: str, values: tuple[Any, ...], parent: int | None = None, when: tuple[int, ...] = ()
    ) -> int:
        self.variables.append(Variable(name, tuple(values), parent, when))
        return len(self.variables) - 1

    def _add_slot(
        self, name: str, slot: Slot, parent: int | None = None, when: tuple[int, ...] = ()
    ) -> _SlotGenes:
        which = self._add(name, tuple(c.op for c in slot.candidates), parent, when)
        candidates = []
        for index, candidate in enumerate(slot.candidates):
            items = []
            for item, domain in candidate.items:
                full = f"{name}.{candidate.op}.{item}"
                place = (
                    self._add_slot(full, domain, which, (index,))
                    if isinstance(domain, Slot)
                    else self._add(full, domain.values, which, (index,))
                )
                items.append((item, place))
            candidates.append((candidate.op, tuple(items)))
        return _SlotGenes(which, tuple(candidates))

    def _add_stage(self, index: int, stage: StageSpace) -> _StageGenes:
        name = f"stages.{index}"
        depth = self._add(f"{name}.depth", stage.depth.values)
        return _StageGenes(
            depth=depth,
            width_ratio=self._add(f"{name}.width_ratio", stage.width_ratio.values),
            repeats=self._add(f"{name}.repeats", stage.repeats.values),
            enter=self._add_slot(f"{name}.enter", stage.enter),
            leave=self._add_slot(f"{name}.leave", stage.leave),
            blocks=tuple(
                self._add_block(f"{name}.blocks", i, b, depth, _depths_beyond(stage.depth, i), stage.optional)
                for i, b in enumerate(stage.blocks)
            ),
        )

    def _add_block(
        self, stage: str, index: int, block: BlockSpace, depth: int, when: tuple[int, ...], optional: bool
    ) -> _BlockGenes:
        def slot(part: str) -> _SlotGenes:
            found: Slot = getattr(block, part)
            if not found.shared:
                return self._add_slot(f"{stage}.{index}.{part}", found, depth, when)
            key = f"{stage}.*.{part}"
            if key not in self._shared_slots:
                self._shared_slots[key] = self._add_slot(key, found)
            return self._shared_slots[key]

        def placement() -> int:
            if not block.placement_shared:
                return self._add(f"{stage}.{index}.placement", block.placement.values, depth, when)
            key = f"{stage}.*.placement"
            if key not in self._shared_places:
                self._shared_places[key] = self._add(key, block.placement.values)
            return self._shared_places[key]

        mixer, ffn = slot("mixer"), slot("ffn")

        def quant() -> tuple[tuple[QuantSpace, int], ...]:
            found = []
            for name, decision in block.quant:
                parent, values = _parent_of(decision, block, mixer, ffn) or (depth, when)
                gene = self._add(f"{stage}.{index}.quant.{name}", decision.formats.values, parent, values)
                found.append((decision, gene))
            return tuple(found)

        return _BlockGenes(
            mixer,
            ffn,
            slot("norm"),
            slot("projection"),
            placement(),
            quant(),
            self._add(f"{stage}.{index}.mixer", SHARED_OR_NOT, depth, when) if optional else None,
        )

    # between genomes and architectures

    def decode(self, genome: Genome) -> ArchSpec:
        """Return the architecture of a genome. Raises ValueError where a gene is out of range."""
        self._check(genome)
        d_model = int(self.variables[self._d_model].values[genome[self._d_model]])
        stages: list[StageSpec] = []
        blocks: list[BlockSpec] = []
        width: float = d_model
        for genes in self._stages:
            width = width * self._value(genes.width_ratio, genome)
            depth = int(self._value(genes.depth, genome))
            stages.append(
                self._read_stage(
                    len(genes.blocks),
                    round(width),
                    self._decode_slot(genes.enter, genome),
                    self._decode_slot(genes.leave, genome),
                    int(self._value(genes.repeats, genome)),
                )
            )
            for i, b in enumerate(genes.blocks):
                is_left_out = b.is_there is not None and self._value(b.is_there, genome) == NONE.op
                blocks.append(INACTIVE if i >= depth or is_left_out else self._block_of(b, genome))
        return ArchSpec(
            task=self.space.task,
            stem=self.space.stem,
            d_model=d_model,
            blocks=tuple(blocks),
            stages=tuple(stages),
            position=self._decode_slot(self._position, genome),
            final_norm=self._decode_slot(self._final_norm, genome),
            head=self.space.head,
        )

    def encode(self, arch: ArchSpec) -> Genome:
        """Return the canonical genome of an architecture. Raises ValueError naming what the space does not contain."""
        genome = [0] * len(self.variables)
        self._put(genome, self._d_model, arch.d_model)
        self._encode_slot(genome, self._position, arch.position)
        self._encode_slot(genome, self._final_norm, arch.final_norm)
        if len(arch.stages) != len(self._stages):
            raise ValueError(
                f"space {self.space.name} has {len(self._stages)} stages, got {len(arch.stages)}"
            )
        start, width = 0, float(arch.d_model)
        for genes, stage in zip(self._stages, arch.stages, strict=True):
            blocks = arch.blocks[start : start + stage.num_blocks]
            start += stage.num_blocks
            ratios = self.variables[genes.width_ratio].values
            self._put(
                genome,
                genes.width_ratio,
                next((r for r in ratios if round(width * r) == stage.d_model), None),
            )
            width *= self._value(genes.width_ratio, tuple(genome))
            self._put(genome, genes.repeats, stage.repeats)
            self._encode_slot(genome, genes.enter, stage.enter)
            self._encode_slot(genome, genes.leave, stage.leave)
            used = max((i + 1 for i, b in enumerate(blocks) if b.is_active), default=0)
            depths = self.variables[genes.depth].values
            self._put(genome, genes.depth, min((d for d in depths if d >= used), default=None))
            for i in range(min(self._value(genes.depth, tuple(genome)), len(blocks))):
                self._encode_block(genome, genes.blocks[i], blocks[i])
        return tuple(genome)

    def _check(self, genome: Genome) -> None:
        if len(genome) == len(self._sizes) and min(genome) >= 0 and all(map(lt, genome, self._sizes)):
            return  # the rest reports what is wrong
        if len(genome) != len(self.variables):
            raise ValueError(
                f"a genome of {self.space.name} has {len(self.variables)} genes, got {len(genome)}"
            )
        for gene, variable in zip(genome, self.variables, strict=True):
            if not 0 <= gene < len(variable.values):
                raise ValueError(f"{variable.name} has {len(variable.values)} values, got index {gene}")

    def _value(self, index: int, genome: Genome) -> Any:
        return self.variables[index].values[genome[index]]

    def _decode_slot(self, slot: _SlotGenes, genome: Genome) -> OpSpec:
        op, items = slot.candidates[genome[slot.which]]
        values: list[tuple[str, Value]] = [
            (n, self._decode_slot(p, genome) if isinstance(p, _SlotGenes) else self._value(p, genome))
            for n, p in items
        ]
        return OpSpec(op, tuple(values)) if values else OpSpec(op)

    def _block_of(self, block: _BlockGenes, genome: Genome) -> BlockSpec:
        return self._read_block(block, tuple(genome[i] for i in _indices(block)))

    def _decode_block(self, block: _BlockGenes, genes: Genome) -> BlockSpec:
        genome = dict(zip(_indices(block), genes, strict=True))
        mixer, ffn = self._decode_slot(block.mixer, genome), self._decode_slot(block.ffn, genome)  # type: ignore[arg-type]
        if mixer == NONE and ffn == NONE:
            return INACTIVE
        return BlockSpec(
            mixer,
            ffn,
            self._decode_slot(block.norm, genome),  # type: ignore[arg-type]
            self._decode_slot(block.projection, genome),  # type: ignore[arg-type]
            self._value(block.placement, genome),  # type: ignore[arg-type]
            self._decode_quant(block, genome, mixer.op, ffn.op),  # type: ignore[arg-type]
        )

    def _decode_quant(self, block: _BlockGenes, genome: Genome, mixer: str, ffn: str) -> QuantPolicy:
        """Formats of the roles that the operators have, so that equal networks are equal architectures."""
        chosen = [(d, self._value(i, genome)) for d, i in block.quant if mixer in d.mixers or ffn in d.ffns]
        return quant_policy(chosen)

    def _put(self, genome: list[int], index: int, value: Any) -> None:
        variable = self.variables[index]
        if value not in variable.values:
            raise ValueError(f"{variable.name} offers {list(variable.values)}, the architecture has {value}")
        genome[index] = variable.values.index(value)

    def _encode_slot(self, genome: list[int], slot: _SlotGenes, op: OpSpec) -> None:
        self._put(genome, slot.which, op.op)
        _, items = slot.candidates[genome[slot.which]]
        for name, place in items:
            if isinstance(place, _SlotGenes):
                self._encode_slot(genome, place, op[name])
            else:
                self._put(genome, place, op[name])

    def _encode_block(self, genome: list[int], genes: _BlockGenes, block: BlockSpec) -> None:
        if genes.is_there is not None:
            self._put(genome, genes.is_there, SHARED_OR_NOT[not block.is_active])
            if not block.is_active:
                return
        self._encode_slot(genome, genes.mixer, block.mixer)
        self._encode_slot(genome, genes.ffn, block.ffn)
        if not block.is_active:
            return
        self._encode_slot(genome, genes.norm, block.norm)
        self._encode_slot(genome, genes.projection, block.projection)
        self._put(genome, genes.placement, block.placement)
        for decision, index in genes.quant:
            if block.mixer.op in decision.mixers or block.ffn.op in decision.ffns:
                role = decision.roles[0]
                fmt = block.quant.state if role == STATE else block.quant.of_role(role)
                self._put(genome, index, fmt.name)

    # many genomes at once

    def canonical(self, genomes: Genomes) -> Genomes:
        """Return genomes [n, V] with 0 for decisions that do not exist."""
        return np.where(self.in_use(genomes), genomes, 0)

    def in_use(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Return which decisions of genomes [n, V] exist, [n, V]."""
        exists = np.ones(genomes.shape, dtype=bool)
        for own, parent, allowed, row in self._conditions:
            exists[:, own] = exists[:, parent] & allowed.take(genomes[:, parent] + row)
        return exists

    def _by_generation(
        self,
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]]:
        """Dependent decisions, parents first: own index, parent's index, allowed parent values, row offsets."""
        ages: list[int] = []
        for v in self.variables:
            ages.append(0 if v.parent is None else ages[v.parent] + 1)
        found = []
        for age in range(1, max(ages) + 1):
            own = [i for i, a in enumerate(ages) if a == age]
            allowed = np.zeros((len(own), self.num_values.max()), dtype=bool)
            for row, i in enumerate(own):
                allowed[row, list(self.variables[i].when)] = True
            parents = [self.variables[i].parent for i in own]
            begin = np.arange(len(own)) * allowed.shape[1]
            found.append((np.array(own), np.array(parents, dtype=np.int64), allowed, begin))
        return found

    def random(self, count: int, rng: np.random.Generator) -> Genomes:
        """Return canonical genomes [count, V], with every decision uniform over its values."""
        return self.canonical(rng.integers(0, self.num_values, size=(count, len(self.variables))))

    def size(self) -> int:
        """Return the number of canonical genomes."""
        fixed = [self._d_model]
        total = self._count([self._position.which, self._final_norm.which, *fixed])
        total *= self._count([g.which for g in self._shared_slots.values()] + [*self._shared_places.values()])
        for stage in self._stages:
            per_depth = 0
            for index in range(len(self.variables[stage.depth].values)):
                roots = [
                    i for i, v in enumerate(self.variables) if v.parent == stage.depth and index in v.when
                ]
                per_depth += self._count(roots)
            total *= per_depth * self._count(
                [stage.width_ratio, stage.repeats, stage.enter.which, stage.leave.which]
            )
        return total

    def _count(self, roots: list[int]) -> int:
        """Number of settings of the given decisions and all their dependents."""
        total = 1
        for root in roots:
            children = [(i, v) for i, v in enumerate(self.variables) if v.parent == root]
            total *= sum(
                self._count([i for i, v in children if value in v.when])
                for value in range(len(self.variables[root].values))
            )
        return total


@lru_cache(4096)
def _indices(block: _BlockGenes) -> tuple[int, ...]:
    return tuple(dict.fromkeys(block.indices()))


def _depths_beyond(depth: Choice, block: int) -> tuple[int, ...]:
    return tuple(i for i, d in enumerate(depth.values) if isinstance(d, int) and d > block)


def quant_policy(chosen: Iterable[tuple[QuantSpace, str]]) -> QuantPolicy:
    """Return the policy of these decisions with their chosen formats, without native ones."""
    found = {role: Format.of(name) for decision, name in chosen for role in decision.roles}
    state = found.pop(STATE, Format())
    return QuantPolicy(tuple(sorted((r, f) for r, f in found.items() if f != Format())), state)


def _parent_of(
    decision: QuantSpace, block: BlockSpace, mixer: _SlotGenes, ffn: _SlotGenes
) -> tuple[int, tuple[int, ...]] | None:
    """The slot whose candidate determines whether a format decision exists, and the candidates for which it does.

    None where it depends only on the depth: where both slots have the roles, or where blocks share the slot. Genomes
    may then differ in a format that no operator has, for equal architectures.
    """
    if bool(decision.mixers) == bool(decision.ffns):
        return None
    names, slot, genes = (
        (decision.mixers, block.mixer, mixer) if decision.mixers else (decision.ffns, block.ffn, ffn)
    )
    if slot.shared:
        return None
    return genes.which, tuple(i for i, c in enumerate(slot.candidates) if c.op in names)
