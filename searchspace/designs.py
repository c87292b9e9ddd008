"""Published designs as members of a space: networks that users compare with, proposed early in a search.

A design is a TOML file under `spaces/designs`, a space of one network with a width that trains anywhere. A space
contains it if it offers all of the design's decisions on blocks, positions, width and final norm; stem and head are
those of the space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from searchspace import registry
from searchspace.load import designs, load_space
from searchspace.registry import Nested
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec
from searchspace.spec.genome import Encoding, Genome


@lru_cache(64)
def design(name: str) -> ArchSpec:
    """Return the network of a published design. Raises ValueError naming the known ones."""
    if name not in designs():
        raise ValueError(f"unknown design {name!r}; known: {', '.join(designs())}")
    encoding = Encoding(load_space(name))
    return encoding.decode((0,) * len(encoding))


def members(encoding: Encoding, why_invalid: Callable[[ArchSpec], str | None]) -> dict[str, Genome]:
    """Return the canonical genomes of the designs that the space contains and `why_invalid` accepts, by name."""
    found = {}
    for name in designs():
        genome = _member(encoding, design(name))
        if genome is not None and why_invalid(encoding.decode(genome)) is None:
            found[name] = genome
    return found


def _member(encoding: Encoding, arch: ArchSpec) -> Genome | None:
    if arch.task != encoding.space.task:
        return None
    try:
        genome = encoding.encode(_written_out(arch))
    except (ValueError, KeyError):  # a value or item outside the space
        return None
    return genome if _decisions(encoding.decode(genome)) == _decisions(arch) else None


def _decisions(arch: ArchSpec) -> tuple[object, ...]:
    """Everything but stem, head and unused blocks."""
    arch = _written_out(arch)
    stages, start = [], 0
    for stage in arch.stages:
        blocks = arch.blocks[start : start + stage.num_blocks]
        start += stage.num_blocks
        stages.append((replace(stage, num_blocks=0), tuple(b for b in blocks if b.is_active)))
    return arch.d_model, arch.position, arch.final_norm, tuple(stages)


def _written_out(arch: ArchSpec) -> ArchSpec:
    """The architecture with every option written out, so that an explicit default equals an omitted option."""
    position = _complete("position", arch.position)
    return replace(arch, position=position, blocks=tuple(map(_complete_block, arch.blocks)))


def _complete_block(block: BlockSpec) -> BlockSpec:
    return replace(block, mixer=_complete("mixer", block.mixer), ffn=_complete("ffn", block.ffn))


@lru_cache(4096)
def _complete(slot: str, spec: OpSpec) -> OpSpec:
    if spec == NONE:
        return spec
    entry = registry.operator(slot, spec.op)
    off = {name: values[0] for name, values in entry.options.items()} | dict(entry.fixed)
    nested = {
        name: _complete(domain.slot, spec[name])
        for name, domain in entry.choices.items()
        if isinstance(domain, Nested)
    }
    return OpSpec.of(spec.op, **off | dict(spec.items) | nested)
