"""Selects one option per group with the smallest sum of values within budgets, exactly, as an integer program.

    min sum_g v_g[x_g]      subject to      sum_g c_g[x_g, m] <= b_m for every cost m

Puzzle selects blocks in this way (Bercovich et al., arXiv:2411.19146). The module also has the ladder of Mix'n'Match
(Devvrit et al., "MatFormer", arXiv:2310.07707): sizes that never decrease from layer to layer, with small steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Floats = NDArray[np.float64]


def solve(values: Sequence[Floats], costs: Sequence[Floats], budgets: Floats) -> list[int] | None:
    """The chosen index in each group; None if no choice meets the budgets.

    values: [n_g] per group; costs: [n_g, M] per group; budgets: [M].
    """
    sizes = [len(v) for v in values]
    group = np.repeat(np.arange(len(sizes)), sizes)
    one_each = csr_array((np.ones(len(group)), (group, np.arange(len(group)))))
    scale = np.maximum(np.abs(np.concatenate(costs)).max(0), np.abs(budgets))  # scales all constraints alike
    scale = np.where(scale > 0, scale, 1.0)
    found = milp(
        np.concatenate(values),
        integrality=np.ones(len(group)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint((np.concatenate(costs) / scale).T, -np.inf, budgets / scale),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    starts = np.cumsum([0, *sizes[:-1]])
    return [int(found.x[i : i + n].argmax()) for i, n in zip(starts, sizes, strict=True)]


def ladder(num_layers: int, num_sizes: int) -> list[tuple[int, ...]]:
    """The steps of the ladder, each the size index of every layer, from all smallest to all largest.

    Each step enlarges one layer; at most two neighbouring sizes are mixed, the larger one in the later layers.
    """
    steps = [
        (size,) * (num_layers - larger) + (size + 1,) * larger
        for size in range(num_sizes - 1)
        for larger in range(num_layers)
    ]
    return [*steps, (num_sizes - 1,) * num_layers]
