"""The effect of single format decisions: networks from which a search starts instead of random ones.

the largest network in the formats that the space names first        the baseline
each format for all roles that offer it                              what formats save and cost overall
each other format for one role in all its blocks                     which roles tolerate it
"""

from __future__ import annotations

from collections import defaultdict

from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, Genome
from searchspace.spec.sizes import Sizes
from searchspace.validity import why_invalid

_Places = dict[str, list[int]]  # indices of format decisions by role


def first_architectures(encoding: Encoding) -> list[ArchSpec]:
    """Return these networks; empty where the space has no choice between formats."""
    places = _places(encoding)
    if not places:
        return []
    base = Sizes(encoding, lambda genome: why_invalid(encoding.decode(genome)) is None).largest
    every = [i for indices in places.values() for i in indices]
    names = dict.fromkeys(name for i in every for name in encoding.variables[i].values)
    uniform = [encoding.decode(_with(encoding, base, every, str(name))) for name in names]
    start = encoding.decode(base)
    found = [start, *uniform, *one_role_at_a_time(encoding, start)]
    return list({arch.id: arch for arch in found}.values())


def one_role_at_a_time(encoding: Encoding, base: ArchSpec) -> list[ArchSpec]:
    """Return `base` with one role's format changed in all its blocks, for each role and each other offered format."""
    genome = encoding.encode(base)
    changed: dict[str, ArchSpec] = {}
    for indices in _places(encoding).values():
        for name in dict.fromkeys(name for i in indices for name in encoding.variables[i].values):
            arch = encoding.decode(_with(encoding, genome, indices, str(name)))
            changed.setdefault(arch.id, arch)
    changed.pop(base.id, None)
    return list(changed.values())


def _places(encoding: Encoding) -> _Places:
    found: _Places = defaultdict(list)
    for index, variable in enumerate(encoding.variables):
        before, is_format, role = variable.name.rpartition(".quant.")
        if is_format and len(variable.values) > 1:
            found[role].append(index)
    return found


def _with(encoding: Encoding, genome: Genome, indices: list[int], name: str) -> Genome:
    """Set the format `name` at those of `indices` that offer it."""
    new = list(genome)
    for i in indices:
        values = encoding.variables[i].values
        new[i] = values.index(name) if name in values else new[i]
    return tuple(new)
