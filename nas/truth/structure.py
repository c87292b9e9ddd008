"""Properties of an architecture without building it: baselines, features for a predictor, and its family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from searchspace.spec.arch import ArchSpec
from studies.agreement import Floats

COUNTS = ("parameters", "flops", "depth", "state_bytes")
BASELINES = (*COUNTS, "depth_then_width")


def baselines(archs: Sequence[ArchSpec]) -> dict[str, Floats]:
    """The counts of `proxies.counts` and `depth_then_width`, [n] each, by name."""
    from proxies.registry import score

    counts = [score(COUNTS, arch, None, 0) for arch in archs]
    found = {name: np.array([each[name].value for each in counts]) for name in COUNTS}
    widths = np.array([arch.d_model for arch in archs], dtype=float)
    return found | {"depth_then_width": depth_then_width(found["depth"], widths)}


def depth_then_width(depth: Floats, width: Floats) -> Floats:
    """Scores [n] that order networks by depth [n] and, for equal depth, by width [n]."""
    ordered: Floats = depth + width / (width.max() + 1)
    return ordered


def features(archs: Sequence[ArchSpec]) -> Floats:
    """Features [n, M]: operators counted by slot, occurrence of each mixer, the first mixer, width and depth."""
    found = [_features(arch) for arch in archs]
    names = sorted({name for counts in found for name in counts})
    values = np.array([[counts[name] for name in names] for counts in found], dtype=float)
    varying: Floats = values[:, np.ptp(values, axis=0) > 0]
    return varying


def families(archs: Sequence[ArchSpec]) -> list[str]:
    """A family name per network: its kinds of mixer or, if these are the same for all, its FFN sizes."""
    mixers = [" ".join(sorted({b.mixer.op for b in arch.blocks if b.is_active})) for arch in archs]
    if len(set(mixers)) > 1:
        return mixers
    return [
        " ".join(f"{b.ffn.get('d_ff')}x{b.ffn.get('num_hidden', 1)}" for b in arch.blocks) for arch in archs
    ]


def _features(arch: ArchSpec) -> Counter[str]:
    found: Counter[str] = Counter(d_model=arch.d_model, depth=arch.depth)
    blocks = [block for block in arch.blocks if block.is_active]
    for block in blocks:
        slots = (
            ("mixer", block.mixer),
            ("ffn", block.ffn),
            ("norm", block.norm),
            ("projection", block.projection),
        )
        found.update(f"{slot} {spec.op}" for slot, spec in slots)
        found.update([f"placement {block.placement}"])
        found["d_ff"] += block.ffn.get("d_ff", 0)
        found["heads"] += block.mixer.get("num_groups", 0) * block.mixer.get("heads_per_group", 1)
    found.update({f"has {block.mixer.op}" for block in blocks})
    found.update(f"first {block.mixer.op}" for block in blocks[:1])
    return found
