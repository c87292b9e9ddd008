"""A small table in the form of HW-GPT-Bench, of a law that is known."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np

WIDTHS, DEPTHS, RATIOS, HEADS = (64, 128), (2, 3), (2, 3, 4), (4, 8)


def law(width: int, ratios: list[int], heads: list[int], bias: bool) -> dict[str, float]:
    """Cost is exactly additive within a width; quality has a product of two sums."""
    cost = width * (1.0 + sum(ratios) + 0.5 * bias) + sum(heads)
    return {"cost": cost, "loss": 10 - 0.004 * width - 0.1 * sum(ratios) - 0.002 * sum(ratios) * sum(heads)}


def write(path: Path, count: int = 400, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["embed_dim", "n_layer", "mlp_ratio", "n_head", "bias", "device", "cost", "loss"])
        for _ in range(count):
            width, depth = int(rng.choice(WIDTHS)), int(rng.choice(DEPTHS))
            ratios, heads = rng.choice(RATIOS, depth).tolist(), rng.choice(HEADS, depth).tolist()
            bias = bool(rng.integers(2))
            values = law(width, ratios, heads, bias)
            joined = ["-".join(map(str, v)) for v in (ratios, heads)]
            writer.writerow([width, depth, *joined, bias, "h100", values["cost"], values["loss"]])
    return path
