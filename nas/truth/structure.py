"""What is known of an architecture without building it: baselines, features for a predictor, and its family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from searchspace.spec.arch import ArchSpec
from searchspace.spec.workload import Workload
from studies.agreement import Floats

BASELINES = ("parameters", "flops", "depth", "state_bytes", "depth_then_width")


def baselines(archs: Sequence[ArchSpec]) -> dict[str, Floats]:
    """[n] by name. FLOPs and state are of one example of the longest length; depth counts executed blocks."""
    from searchspace.cost import cost
    from searchspace.model import contexts

    lengths = [contexts(arch)["stem"].layout.max_len for arch in archs]
    costs = [cost(arch, Workload(seq_len=T)) for arch, T in zip(archs, lengths, strict=True)]
    depth = np.array([_depth(arch) for arch in archs], dtype=float)
    return {
        "parameters": np.array([c.parameters for c in costs], dtype=float),
        "flops": np.array([c.flops for c in costs], dtype=float),
        "depth": depth,
        "state_bytes": np.array([c.state_bytes for c in costs], dtype=float),
        "depth_then_width": depth_then_width(depth, np.array([arch.d_model for arch in archs], dtype=float)),
    }


def depth_then_width(depth: Floats, width: Floats) -> Floats:
    """[n]: orders networks by depth, those of one depth by width."""
    ordered: Floats = depth + width / (width.max() + 1)
    return ordered


def features(archs: Sequence[ArchSpec]) -> Floats:
    """[n, M]: operators counted by slot, which mixers occur at all, which comes first, width and depth."""
    found = [_features(arch) for arch in archs]
    names = sorted({name for counts in found for name in counts})
    values = np.array([[counts[name] for name in names] for counts in found], dtype=float)
    varying: Floats = values[:, np.ptp(values, axis=0) > 0]
    return varying


def families(archs: Sequence[ArchSpec]) -> list[str]:
    """The kinds of mixer in use; where every network has the same, the sizes of its FFNs."""
    mixers = [" ".join(sorted({b.mixer.op for b in arch.blocks if b.is_active})) for arch in archs]
    if len(set(mixers)) > 1:
        return mixers
    return [
        " ".join(f"{b.ffn.get('d_ff')}x{b.ffn.get('num_hidden', 1)}" for b in arch.blocks) for arch in archs
    ]


def _depth(arch: ArchSpec) -> int:
    depth, first = 0, 0
    for stage in arch.stages:
        blocks = arch.blocks[first : first + stage.num_blocks]
        depth += stage.repeats * sum(block.is_active for block in blocks)
        first += stage.num_blocks
    return depth


def _features(arch: ArchSpec) -> Counter[str]:
    found: Counter[str] = Counter(d_model=arch.d_model, depth=_depth(arch))
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
