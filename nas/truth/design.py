"""The architectures of a truth table: groups of networks of equal size, as different as possible inside a group.

A ranking over a whole space is mostly a ranking by size. Inside a group of networks with nearly the same number of
parameters, differences come from mixer, norm, placement, ffn and shape. In addition there are probes: for each mixer
the largest network with this mixer in every block, which show whether training distinguishes operators at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.training.sandwich import Sandwich
from searchspace.cost import cost
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import NONE, ArchSpec
from searchspace.spec.genome import Encoding, Genomes
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid
from studies.truth import PROBE

GROUP_SIZE = 12
TOLERANCE = 0.05  # relative deviation of parameters inside a group, to either side
POOL = 80  # random candidates per architecture of the design


@dataclass(frozen=True)
class Entry:
    """`group` is the number of parameters that its members have within TOLERANCE, or PROBE; `parameters` its own."""

    arch: ArchSpec
    group: str
    parameters: int
    more_seeds: bool = False


def design(space: SpaceSpec, count: int, seed: int) -> list[Entry]:
    """`count` architectures in groups, a tenth of them with more seeds, and the probes, all with more seeds.

    Raises ValueError if the space has too few architectures for the groups.
    """
    probes = [Entry(arch, PROBE, _parameters(arch), more_seeds=True) for arch in _probes(space)]
    known = {e.arch.id for e in probes}
    num_groups = max(1, round(count / GROUP_SIZE))
    genes, archs, sizes = _pool(space, count, seed)
    # groups in the smallest and largest tenth would have few candidates
    centres = np.exp(np.quantile(np.log(sizes), np.linspace(0.1, 0.9, num_groups)))
    entries = []
    for i, centre in enumerate(centres):
        wanted = count // num_groups + (i < count % num_groups)
        near = np.flatnonzero(np.abs(sizes / centre - 1) <= TOLERANCE)
        near = np.array([j for j in near if archs[j].id not in known], dtype=int)
        chosen = near[_spread(genes[near], wanted)]
        if len(chosen) < wanted:
            raise ValueError(
                f"space {space.name}: {len(near)} of {len(archs)} random architectures have {centre:,.0f} parameters "
                f"within {TOLERANCE:.0%}, {wanted} are needed; ask for fewer than {count}"
            )
        known |= {archs[j].id for j in chosen}
        entries += [Entry(archs[j], f"{centre:.0f}", int(sizes[j])) for j in chosen]
    again = {round((i + 0.5) * 10) for i in range(max(1, len(entries) // 10))}
    return [*probes, *(replace(e, more_seeds=i in again) for i, e in enumerate(entries))]


def _parameters(arch: ArchSpec) -> int:
    return cost(arch, Workload()).parameters


def _probes(space: SpaceSpec) -> list[ArchSpec]:
    largest = Sandwich(space, num_random=0, seed=0).largest
    encoding = Encoding(space)
    mixers: dict[str, ArchSpec] = {}
    rng = np.random.default_rng(0)
    for _, arch in valid_architectures(encoding, rng, Workload(), max_draws=10_000):
        for block in arch.blocks:
            if block.mixer.op not in mixers:
                uniform = replace(
                    largest, blocks=tuple(replace(b, mixer=block.mixer) for b in largest.blocks)
                )
                if why_invalid(uniform) is None:
                    mixers[block.mixer.op] = uniform
    mixers[NONE.op] = replace(largest, blocks=tuple(replace(b, mixer=NONE) for b in largest.blocks))
    return [largest, *(arch for arch in mixers.values() if arch.id != largest.id)]


def _pool(space: SpaceSpec, count: int, seed: int) -> tuple[Genomes, list[ArchSpec], NDArray[np.float64]]:
    """(genomes [n, V], architectures, numbers of parameters [n]) of random valid architectures."""
    encoding = Encoding(space)
    rng = np.random.default_rng(seed)
    drawn = {
        arch.id: (genome, arch)
        for genome, arch in valid_architectures(encoding, rng, Workload(), max_draws=POOL * count)
    }
    genes = np.array([g for g, _ in drawn.values()])
    archs = [a for _, a in drawn.values()]
    return genes, archs, np.array([_parameters(a) for a in archs], dtype=float)


def _spread(genes: Genomes, count: int) -> list[int]:
    """Indices of at most `count` rows of genes [n, V], each the farthest from the earlier ones in Hamming distance."""
    if not len(genes):
        return []
    chosen = [0]
    distance = (genes != genes[0]).sum(1)
    while len(chosen) < min(count, len(genes)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, (genes != genes[chosen[-1]]).sum(1))
    return chosen
