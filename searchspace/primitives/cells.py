"""Transitions from the tokens of a grid to its cells of 2 x 2 tokens."""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.context import BuildContext, Layout
from searchspace.spec.arch import OpSpec

CELL = 2


def cells_of(grid: tuple[int, int]) -> tuple[int, int]:
    return grid[0] // CELL, grid[1] // CELL


def cells(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """x [B, T, C] on a grid (rows, columns) -> the tokens of each cell, row by row, [B, T / 4, 4, C]."""
    rows, columns = cells_of(grid)
    return x.view(-1, rows, CELL, columns, CELL, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def cell_places(grid: tuple[int, int]) -> list[list[int]]:
    """Return the places of each cell's tokens, for references that go cell by cell."""
    rows, columns = grid
    return [
        [(row + i) * columns + column + j for i in range(CELL) for j in range(CELL)]
        for row in range(0, rows, CELL)
        for column in range(0, columns, CELL)
    ]


def layout(spec: OpSpec, before: Layout) -> Layout:
    assert before.grid is not None
    return Layout(before.max_len // CELL**2, cells_of(before.grid))


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    grid = context.layout.grid
    if grid is not None and any(side % CELL for side in grid):
        return f"{spec.op} needs an even grid, got {grid[0]} x {grid[1]}"
    return None
