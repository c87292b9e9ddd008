"""A search of a deep space tries it from end to end, and finds what lies in a thin range of it."""

from pathlib import Path

import pytest

import nas
from searchspace.cost import cost
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import Constraint
from searchspace.spec.workload import Workload
from tests.searchspace.test_sizes import deep, ends


def parameters(arch: ArchSpec) -> int:
    return cost(arch, Workload()).parameters


def judge(arch: ArchSpec) -> dict[str, float]:
    return {"loss": float(-len([b for b in arch.blocks if b.is_active])), "cost": float(parameters(arch))}


def sizes(
    tmp_path: Path, searcher: str, trials: int, *constraints: Constraint, origin: str = ""
) -> list[int]:
    result = nas.search(
        space=deep(*constraints),
        objectives=["loss", "cost"],
        evaluate=judge,
        db=f"sqlite:///{tmp_path}/nas.db",
        searcher=searcher,
        trials=trials,
        lag=4,
    )
    return [parameters(ArchSpec.from_json(t.arch)) for t in result.trials if origin in ("", t.origin)]


@pytest.mark.parametrize("searcher", ["random", "nsga2", "tpe"])
def test_the_whole_and_the_smallest_come_first_and_a_thin_range_is_searched(searcher: str, tmp_path: Path):
    low, high = ends()
    loose = Constraint("parameters", upper=10 * high)
    assert sizes(tmp_path, searcher, 10, loose, origin="first")[:2] == [high, low]
    (tmp_path / "nas.db").unlink()
    bound = Constraint("parameters", lower=0.98 * high)
    found = sizes(tmp_path, searcher, 10, bound)
    assert len(found) == 10
    assert min(found) >= 0.98 * high
