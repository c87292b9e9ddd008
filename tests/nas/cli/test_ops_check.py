"""`nas ops check` on operators of an installed package: one that keeps every contract, and one that looks ahead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli.main import main

OPERATORS = '''
"""Two mixers: the mean of the last two tokens, and one that takes the next token for the last."""

import torch
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.registry import Operator

class PairMean(AxisModule):
    ahead = 0

    def __init__(self, spec, context):
        super().__init__()
        d_model = Axis.of(D=context.d_model)
        self.mean_proj = context.linear("o", d_model, d_model)

    def forward(self, x, tokens, state=None):
        real = x if tokens.valid is None else x * tokens.valid.unsqueeze(-1)
        before = torch.zeros_like(x[:, :1]) if state is None else state["last"]
        last = torch.cat((before, real[:, :-1]), 1)
        if self.ahead:
            last = F.pad(real[:, 1:], (0, 0, 0, 1))
        state = None if state is None else {"last": real[:, -1:].clone()}
        return self.mean_proj((real + last) / 2), state

    def init_state(self, batch_size, device, dtype):
        return {"last": torch.zeros(batch_size, 1, self.mean_proj.weight.shape[0], device=device, dtype=dtype)}

class LookingAhead(PairMean):
    ahead = 1

def reference(module, x, tokens):
    rows = []
    for t in range(x.shape[1]):
        near = [s for s in (t - 1, t) if s >= 0]
        real = [x[:, s] if tokens.valid is None else x[:, s] * tokens.valid[:, s, None] for s in near]
        rows.append(F.linear(sum(real) / 2, module.mean_proj.weight))
    return torch.stack(rows, 1)

def state_bytes(module, context_len, bytes_per_value):
    return module.mean_proj.weight.shape[0] * bytes_per_value

ABOUT = dict(slot="mixer", paper="none yet", state_bytes=state_bytes, bidirectional=False)
PAIR_MEAN = Operator(name="pair_mean", build=PairMean, reference=reference, choices={"window": (2,)}, **ABOUT)
LOOKING_AHEAD = Operator(name="looking_ahead", build=LookingAhead, **ABOUT)
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package of one file that names it in the entry-point group."""
    folder = tmp_path_factory.mktemp("package")
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (folder / "my_operators.py").write_text(OPERATORS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nas.operators]\nmine = my_operators\n")
    return folder


def nas(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = ":".join([str(package), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "nas.cli.main", *arguments],
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_operator_of_another_package_keeps_every_contract(package: Path) -> None:
    done = nas(package, "ops", "check", "pair_mean")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prefill then token by token equals one forward" in done.stdout
    assert "fast form equals reference" in done.stdout


def test_an_operator_that_looks_ahead_breaks_the_contracts_that_say_so(package: Path) -> None:
    done = nas(package, "ops", "check", "looking_ahead", "--json")
    assert done.returncode == 1, done.stderr
    failures = {c["contract"]: c["failure"] for c in json.loads(done.stdout)["contracts"] if c["failure"]}
    leak = failures["no_output_has_a_gradient_from_later_tokens"]
    assert leak == "mixer-looking_ahead-causal: output 0 has a gradient from later tokens"
    assert "changing_a_token_leaves_earlier_outputs_bitwise_equal" in failures
    assert "prefill_then_token_by_token_equals_one_forward" in failures
    assert "counted_parameters_are_the_parameters" not in failures


def test_an_operator_that_is_not_there_is_named_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ops", "check", "mlpp", "--slot", "ffn"]) == 2
    assert "unknown ffn 'mlpp'; did you mean mlp? known: acm, " in capsys.readouterr().err
    assert main(["ops", "check"]) == 2
    assert "name one operator" in capsys.readouterr().err
