"""The plain family of a space: networks that a good engineer would build by hand, without a search.

    a new space        equal blocks: full softmax attention where the space has it, the space's usual norm, one ffn
                       kind, with widths, depths and ffn widths over the whole range of costs
    an imported model  the model itself, each layer left out alone, fewer layers at even distances or the first ones,
                       and every width cut by the same share; all but single left-out layers also with all maps in int8,
                       where the space offers that

They are members of the space, so a study judges them like the networks it finds, and can say what a search is worth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from searchspace.cost import cost
from searchspace.spec.arch import ONNX_INT8, ArchSpec
from searchspace.spec.genome import Encoding, Genome, Variable
from searchspace.spec.handmade import IN_INT8, LAYERS_LEFT_OUT, NARROWER, ORIGINAL
from searchspace.spec.workload import Workload

# Values of the plain choice of a decision, in order of preference; a decision without one takes its first value.
MIXERS = ("softmax_attention", "visual_self_attention")
FFNS = ("swiglu", "mlp", "glu")
WORDS = ("none", "softmax", "pre", "dense", "native", "rmsnorm", "layernorm")
OFF = ("window", "sinks", "init_rank")  # 0 switches the refinement off
HEADS = (".num_groups", ".heads_per_group", ".head_dim")
USUAL_RATIO = 8 / 3  # ffn width / residual width, for the three matrices of swiglu: Shazeer, 2020
SHARES = (0.75, 0.5)  # to which every width of an imported model is cut
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.*)")

WhyInvalid = Callable[[ArchSpec], str | None]


def plain_family(
    encoding: Encoding, why_invalid: WhyInvalid, workload: Workload, count: int = 16
) -> tuple[Genome, ...]:
    """Return up to `count` genomes of valid plain networks, evenly spread in log FLOPs, as are any first few of them.

    Empty where no uniform network is valid.
    """
    members = _distinct(encoding, why_invalid, _uniform(encoding))
    return tuple(_spread(members, workload, count))


def imported_family(encoding: Encoding, why_invalid: WhyInvalid, count: int = 32) -> dict[Genome, str]:
    """Return up to `count` genomes of valid networks, each with its kind of searchspace.spec.handmade.

    First comes the model around which the space was made, with all layers at full width, and its int8 form where that
    is offered; then its obvious cuts.
    """
    found: dict[Genome, str] = {}
    for genome, kind in _cuts(encoding):
        member = _first_valid(encoding, why_invalid, [genome])
        if member is not None:
            found.setdefault(member[0], kind)
    return dict(islice(found.items(), count))


def _distinct(
    encoding: Encoding, why_invalid: WhyInvalid, wanted: Iterable[Iterable[Genome]]
) -> list[tuple[Genome, ArchSpec]]:
    """The first valid genome of each group of alternatives; each architecture once."""
    found: dict[str, tuple[Genome, ArchSpec]] = {}
    for alternatives in wanted:
        member = _first_valid(encoding, why_invalid, alternatives)
        if member is not None:
            found.setdefault(member[1].id, member)
    return list(found.values())


def _first_valid(
    encoding: Encoding, why_invalid: WhyInvalid, genomes: Iterable[Genome]
) -> tuple[Genome, ArchSpec] | None:
    for genome in genomes:
        arch = encoding.decode(genome)
        if any(b.is_active for b in arch.blocks) and why_invalid(arch) is None:
            return encoding.encode(arch), arch
    return None


def _spread(members: list[tuple[Genome, ArchSpec]], workload: Workload, count: int) -> Iterator[Genome]:
    """Yield the nearest member at each of `count` levels of cost; the usual ffn ratio breaks near ties."""
    if not members:
        return
    sizes = np.log([max(1.0, cost(arch, workload).flops) for _, arch in members])
    unusual = np.array([_unusual(arch) for _, arch in members])
    span = float(np.ptp(sizes)) or 1.0
    free = np.ones(len(members), dtype=bool)
    chosen = []
    for level in np.linspace(sizes.min(), sizes.max(), min(count, len(members))):
        penalty = np.abs(sizes - level) / span + unusual / (4 * count)
        i = int(np.argmin(np.where(free, penalty, np.inf)))
        free[i] = False
        chosen.append(i)
    ordered = sorted(chosen, key=lambda i: sizes[i])
    for place in _far_apart(len(ordered)):
        yield members[ordered[place]][0]


def _far_apart(count: int) -> list[int]:
    """The first and last place of `count`, then repeatedly the place farthest from the earlier ones."""
    found = [0, count - 1][:count]
    while len(found) < count:
        found.append(max(range(count), key=lambda i: min(abs(i - j) for j in found)))
    return found


def _unusual(arch: ArchSpec) -> float:
    """Distance of the ffn's width from the usual multiple of the residual width, in powers of two."""
    widths = [b.ffn.get("d_ff") for b in arch.blocks if b.is_active and b.ffn.get("d_ff")]
    return abs(float(np.log2(widths[0] / arch.d_model / USUAL_RATIO))) if widths else 0.0


def _uniform(encoding: Encoding) -> Iterator[Iterator[Genome]]:
    """For every width, depth and ffn width, yield the head settings, first those whose heads fill the width."""
    variables = encoding.variables
    base = [_plain(v) for v in variables]
    mixers = {str(v.values[i]) for v, i in zip(variables, base, strict=True) if v.name.endswith(".mixer")}
    widths = variables[0].values
    sizes = _families(encoding, lambda name: name == "d_model" or name.endswith(".d_ff"))
    heads = _families(
        encoding, lambda name: name.endswith(HEADS) and name.split(".")[-2] in mixers, fixed=True
    )
    depths = [i for i, v in enumerate(variables) if v.name.endswith(".depth")]
    levels = max((len(variables[i].values) for i in depths), default=1)

    def unusual(setting: tuple[int, ...], width: int) -> tuple[float, int]:
        """Distance of the heads' total width from the residual width, in powers of two; then how shared keys are."""
        places = [variables[family[0]] for family in heads]
        numbers = [v.values[i] for v, i in zip(places, setting, strict=True)]
        shared = [n for v, n in zip(places, numbers, strict=True) if v.name.endswith(".heads_per_group")]
        return abs(float(np.log2(np.prod(numbers) / width))), max(shared, default=1)

    settings = list(product(*(range(len(variables[family[0]].values)) for family in heads)))
    by_width = [sorted(settings, key=partial(unusual, width=w)) for w in widths]
    for level in range(levels):
        for i in depths:
            base[i] = round(level * (len(variables[i].values) - 1) / max(1, levels - 1))
        for values in product(*(range(len(variables[family[0]].values)) for family in sizes)):
            sized = _with(base, zip(sizes, values, strict=True))
            ordered = by_width[sized[0]]
            yield (_canonical(encoding, _with(sized, zip(heads, s, strict=True))) for s in ordered)


def _cuts(encoding: Encoding) -> Iterator[tuple[Genome, str]]:
    """Yield the whole model; each layer left out alone; fewer layers; all widths cut alike, then with fewer layers too.

    Single left-out layers come early, in native precision first, since they show which layers can go.
    """
    whole = [_largest(v) for v in encoding.variables]
    blocks = sorted({m.groups()[:2] for v in encoding.variables if (m := _BLOCK.match(v.name))}, key=_numbers)
    widths = _families(encoding, lambda name: name.endswith((".d_ff", ".num_groups", ".heads_per_group")))
    alone = [_with_blocks(encoding, whole, set(blocks) - {left_out}) for left_out in blocks]
    yield from _in_both(encoding, whole, ORIGINAL)
    for genes in alone:
        yield _canonical(encoding, genes), LAYERS_LEFT_OUT
    for count in range(len(blocks) - 1, 0, -1):
        for kept in (_evenly(blocks, count), blocks[:count]):
            yield from _in_both(encoding, _with_blocks(encoding, whole, set(kept)), LAYERS_LEFT_OUT)
    for share in SHARES:
        narrowed = _narrowed(encoding, whole, widths, share)
        for count in range(len(blocks), 0, -1):
            genes = _with_blocks(encoding, narrowed, set(_evenly(blocks, count)))
            yield from _in_both(encoding, genes, NARROWER)
    for genes in alone:
        yield from _in_both(encoding, genes, LAYERS_LEFT_OUT)


def _in_both(encoding: Encoding, genes: list[int], kind: str) -> Iterator[tuple[Genome, str]]:
    """The network in native precision and, where the space offers that, with all maps in int8."""
    yield _canonical(encoding, genes), kind
    offers = [i for i, v in enumerate(encoding.variables) if v.is_format and ONNX_INT8 in v.values]
    if offers:
        chosen = (([i], encoding.variables[i].values.index(ONNX_INT8)) for i in offers)
        yield _canonical(encoding, _with(genes, chosen)), kind + IN_INT8


def _evenly(blocks: list[tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
    """`count` of the blocks at even distances, including the first and the last."""
    last = len(blocks) - 1
    return [blocks[round(i * last / max(1, count - 1))] for i in range(count)]


def _with_blocks(encoding: Encoding, genes: list[int], kept: set[tuple[str, ...]]) -> list[int]:
    """Remove mixer and ffn of the blocks that are not kept, where the space can leave them out."""
    new = list(genes)
    for i, variable in enumerate(encoding.variables):
        match = _BLOCK.match(variable.name)
        if match and match.groups()[:2] not in kept and match.group(3) in ("mixer", "ffn"):
            new[i] = variable.values.index("none") if "none" in variable.values else new[i]
    return new


def _narrowed(encoding: Encoding, whole: list[int], families: list[list[int]], share: float) -> list[int]:
    genes = list(whole)
    for family in families:
        for i in family:
            values = encoding.variables[i].values
            genes[i] = int(np.argmin([abs(v - share * max(values)) for v in values]))
    return genes


def _families(encoding: Encoding, is_wanted: Callable[[str], bool], fixed: bool = False) -> list[list[int]]:
    """Decisions of the same kind with the same values, block by block; without `fixed` only those with a choice."""
    families: dict[tuple[str, str], list[int]] = {}
    for i, variable in enumerate(encoding.variables):
        if (fixed or len(variable.values) > 1) and is_wanted(variable.name):
            key = re.sub(r"\d+", "*", variable.name), repr(variable.values)
            families.setdefault(key, []).append(i)
    return list(families.values())


def _plain(variable: Variable) -> int:
    name, values = variable.name.rpartition(".")[2], variable.values
    named = {"mixer": MIXERS, "ffn": FFNS, "rotary": ("global",)}
    wanted: Iterable[Any] = named.get(name, (0, *WORDS) if name in OFF else WORDS)
    for value in wanted:
        if value in values and not isinstance(values[0], bool):
            return values.index(value)
    others = [i for i, value in enumerate(values) if value != "none"]
    if name in ("mixer", "ffn") and others:
        return others[0]
    return 0


def _largest(variable: Variable) -> int:
    """Index of the largest number, of no window, or of the first name: the value of an imported model itself."""
    name, values = variable.name.rpartition(".")[2], variable.values
    if name in OFF:
        return values.index(0) if 0 in values else 0
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return int(np.argmax(values)) if numeric else 0


def _with(base: list[int], chosen: Iterable[tuple[list[int], int]]) -> list[int]:
    new = list(base)
    for family, value in chosen:
        for i in family:
            new[i] = value
    return new


def _numbers(block: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(map(int, block))


def _canonical(encoding: Encoding, genes: list[int]) -> Genome:
    return tuple(encoding.canonical(np.array([genes]))[0].tolist())
