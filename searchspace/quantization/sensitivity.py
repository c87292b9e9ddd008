"""What one decision on formats does by itself: the networks that a search starts from instead of random ones."""

from __future__ import annotations

from collections import defaultdict

from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding


def one_role_at_a_time(encoding: Encoding, base: ArchSpec) -> list[ArchSpec]:
    """`base` with the format of one role changed in all its blocks, for each role and each other format offered."""
    genome = encoding.encode(base)
    roles: dict[str, list[int]] = defaultdict(list)
    for index, variable in enumerate(encoding.variables):
        before, found, role = variable.name.rpartition(".quant.")
        if found and len(variable.values) > 1:
            roles[role].append(index)
    changed: dict[str, ArchSpec] = {}
    for places in roles.values():
        for value in {v for i in places for v in range(len(encoding.variables[i].values))}:
            new = list(genome)
            for i in places:
                new[i] = min(value, len(encoding.variables[i].values) - 1)
            arch = encoding.decode(tuple(new))
            changed.setdefault(arch.id, arch)
    changed.pop(base.id, None)
    return list(changed.values())
