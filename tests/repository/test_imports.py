"""What must start fast loads no torch.

The interpreter is asked, since the contracts read only our own source and not what libraries import.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = ("searchspace/spec", "studies", "nas/searchers", "nas/execution", "nas/engine.py")
HEAVY = ("torch", "optuna", "pymoo", "sklearn", "matplotlib")


def modules(place: str) -> list[str]:
    """The modules of a folder, or the one of a file, by dotted name."""
    path = ROOT / place
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    return [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]


def loaded_after(statements: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after the statements."""
    report = (
        "print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    program = f"import json, sys\n{statements}\n{report}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("place", WITHOUT_TORCH)
def test_what_lists_proposes_and_records_loads_no_torch(place):
    names = modules(place)
    assert names
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in names))


SHOW_HELP = """
from contextlib import suppress
from nas.cli.main import main
sys.argv = ["nas", "--help"]
with suppress(SystemExit): main()
"""


def test_help_loads_no_heavy_library():
    loaded = loaded_after(SHOW_HELP)
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)
