"""Metrics against closed forms and numpy; a function of the user's own is imported only where the user names it."""

import math
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.api import read, resume
from nas.cli.main import main
from nas.errors import UsageError
from nas.evaluation.inherited import quality
from nas.tasks.base import IGNORED, Batch
from nas.tasks.metric_names import PERMITTED, own_metric, parsed, permit
from nas.tasks.metrics import Mean, Whole, exact_match, kl, metrics_of, pearson, spearman
from nas.tasks.text import TextTask
from nas.workers.worker import _Choice
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from studies.store import Store

OWN = """
import torch

def bits(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs, labels) / torch.log(torch.tensor(2.0))

CONSTANT = 3
"""


def decoder() -> Model:
    stem = OpSpec.of("token_embedding", vocab_size=9, max_len=6)
    block = BlockSpec(plain_attention(1, 1, 4), OpSpec.of("swiglu", d_ff=8), OpSpec("rmsnorm"))
    torch.manual_seed(0)
    arch = ArchSpec("causal_lm", stem, 4, (block,), (StageSpec(1, 4),), OpSpec.of("lm_head", vocab_size=9))
    return Model(arch).eval()


def batches() -> list[Batch]:
    """Of lengths that differ, with targets that are not predicted."""
    found = []
    for rows in (3, 2):
        ids = torch.randint(0, 9, (rows, 6), generator=torch.Generator().manual_seed(rows))
        valid = torch.arange(6) < torch.arange(2, rows + 2)[:, None]
        targets = ids.roll(-1, 1)
        targets[:, 0] = IGNORED
        found.append(Batch(ids, targets, valid))
    return found


def pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, 2, 2] at known angles, and scores with ties."""
    angles = torch.linspace(0.1, 3.0, count)
    first = torch.tensor([2.0, 0.0]).expand(count, 2)
    outputs = torch.stack([first, torch.stack([angles.cos(), angles.sin()], 1)], 1)
    return outputs, torch.tensor([float(round(5 - 1.5 * a)) for a in angles.tolist()])


def test_the_divergence_of_two_bernoullis_is_its_closed_form():
    p, q = 0.2, 0.7
    logits = [torch.tensor([[math.log(x), math.log(1 - x)]]) for x in (p, q)]
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert kl(*logits).item() == pytest.approx(expected, rel=1e-6)
    assert kl(logits[0], logits[0] + 3).abs().item() < 1e-6


def test_correlations_are_those_of_numpy():
    outputs, scores = pairs(11)
    cosines = np.array([np.cos(a) for a in np.linspace(0.1, 3.0, 11)])
    assert pearson(outputs, scores) == pytest.approx(np.corrcoef(cosines, scores.numpy())[0, 1], abs=1e-6)
    ranks = [
        np.array([(x < v).sum() + ((x == v).sum() - 1) / 2 for v in x]) for x in (cosines, scores.numpy())
    ]
    assert spearman(outputs, scores) == pytest.approx(np.corrcoef(np.stack(ranks))[0, 1], abs=1e-6)
    with pytest.raises(ValueError, match="can't be ranked"):
        spearman(outputs, torch.ones(11))


def test_a_sequence_matches_where_each_counted_target_does():
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 3], [1, 2, 3], [0, 0, 0]]), 5).float()
    targets = torch.tensor([[1, 2, 4], [1, IGNORED, 3], [IGNORED, IGNORED, 0]])
    valid = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    assert exact_match(Batch(targets, targets, valid), logits).tolist() == [
        False,
        True,
    ]  # the last one counts nothing
    assert exact_match(Batch(targets[:, 0], torch.tensor([1, 2, 0])), logits[:, 0]).tolist() == [
        True,
        False,
        True,
    ]


def test_of_batches_a_metric_is_that_of_all_of_them_at_once():
    model, given = decoder(), batches()
    other = decoder()
    with torch.no_grad():
        for parameter in other.part("head").parameters():
            parameter.mul_(0.5)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def own(outputs: torch.Tensor, labels: torch.Tensor) -> float:
        seen.append((outputs, labels))
        return float(torch.nn.functional.cross_entropy(outputs, labels))

    metrics = {
        "own": Whole("own", own),
        "kl": metrics_of(["kl"], text(), lambda: lambda b: model.decoded(b.inputs))["kl"],
    }
    found = quality(other, given, metrics)
    assert found["own"] == pytest.approx(found["loss"], rel=1e-6)
    assert len(seen) == 1
    assert len(seen[0][0]) == sum(int(b.counted.sum()) for b in given)
    assert found["kl"] > 0
    assert quality(model, given, metrics)["kl"] == pytest.approx(0, abs=1e-6)


def text() -> TextTask:
    ids = torch.arange(200, dtype=torch.uint8) % 9
    return TextTask("made", "up", (ids,), (ids,), 6)


@pytest.mark.parametrize("name", ["kl", "cosine", "pearson", "spearman"])
def test_a_metric_that_the_data_has_nothing_for_says_what_it_needs(name: str):
    with pytest.raises(UsageError, match=f"--metric {name}: it needs"):
        metrics_of([name], text(), None)


def _always(value: Any, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
    return value


def test_what_is_not_a_finite_number_is_no_value():
    for value in (math.nan, "x", torch.ones(2)):
        metric = Whole("mine:f", partial(_always, value)).begun()
        metric.add(batches()[0], torch.zeros(3, 6, 9))
        with pytest.raises(ValueError, match="mine:f gave"):
            metric.value()
    with pytest.raises(ZeroDivisionError):
        Mean(exact_match).value()


@pytest.mark.parametrize("metric", ["mine:", ":f", "mi ne:f", "mine:f:least", "mine:f:minimize:x", "os;x:f"])
def test_a_name_of_no_function_is_refused(metric: str):
    with pytest.raises(UsageError, match="your own module:function"):
        parsed(metric)


def test_a_function_is_imported_only_where_its_user_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PERMITTED, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_scores.py").write_text(OWN + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(UsageError, match="give --metric own_scores:bits"):
        own_metric("own_scores:bits")
    assert not (tmp_path / "ran").exists()
    permit(["own_scores:bits:minimize", "own_scores:CONSTANT", "loss"])
    assert own_metric("own_scores:bits")(torch.zeros(2, 4), torch.tensor([0, 1])) == pytest.approx(2.0)
    with pytest.raises(UsageError, match="it is a int"):
        own_metric("own_scores:CONSTANT")
    permit(["own_scores:missing"])
    with pytest.raises(UsageError, match="can't be imported"):
        own_metric("own_scores:missing")


@pytest.fixture
def searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    monkeypatch.setenv(PERMITTED, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judging.py").write_text(OWN)

    def search(*more: str) -> tuple[int, str]:
        short = ["--runner", "local", "--training-steps", "2", "--trials", "2", "--picture", "", "--json"]
        arguments = [
            "search",
            "--space",
            "tiny-lm",
            "--study",
            "s",
            "--db",
            db(tmp_path),
            "--quality",
            "train",
        ]
        code = main([*arguments, "--searcher", "random", *short, *more])
        out, err = capsys.readouterr()
        return code, out if code == 0 else err

    return search


def db(folder: Path) -> str:
    return f"sqlite:///{folder}/nas.db"


def test_a_function_in_the_current_folder_is_an_objective(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.toml").write_text("beat_baseline = false\nvalidation_examples = 32\n")
    bounded = (
        "--max",
        "judging:bits=100",
        "--max",
        "parameters=60000",
        "--recipe",
        str(tmp_path / "mine.toml"),
    )
    code, out = searched("--metric", "judging:bits:minimize,loss", "--objectives", "parameters", *bounded)
    assert code == 0, out
    study = read("s", db=db(tmp_path)).study
    goals = {o.name: (o.direction, o.source, o.upper) for o in study.objectives}
    assert goals["judging:bits"] == ("minimize", "trained", 100)
    trials = [t for t in read("s", db=db(tmp_path)).trials if t.values.get("loss")]
    assert trials
    for trial in trials:
        assert trial.values["judging:bits"] == pytest.approx(trial.values["loss"] / math.log(2), rel=1e-5)
    monkeypatch.setenv(PERMITTED, "")  # as in another process, which may be another user's
    with pytest.raises(UsageError, match="judged by judging:bits, a user-defined function"):
        resume("s", db=db(tmp_path), trials=1)
    with closing(Store(db(tmp_path))) as store, pytest.raises(UsageError, match="user-defined function"):
        _Choice(store, "s", "", print).judge(study)  # of a worker


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--metric", "kl"), "--metric kl: it needs an original"),
        (("--metric", "los"), "did you mean loss?"),
        (("--metric", "latency"), "--metric: unknown"),
        (("--objectives", "judging:bits"), "add --metric judging:bits"),
        (("--metric", "judging:nothing"), "--metric judging:nothing: it can't be imported"),
    ],
)
def test_a_metric_that_there_is_not_is_refused_before_the_database_knows(
    more: tuple[str, ...], complaint: str, searched: Any, tmp_path: Path
):
    code, err = searched(*more)
    assert code == 2
    assert complaint in err
    assert err.count("\n") == 1


def test_a_recipe_from_others_names_no_code(searched: Any, tmp_path: Path):
    recipe = tmp_path / "theirs.toml"
    recipe.write_text('metric = ["judging:bits"]\n')
    code, err = searched("--recipe", str(recipe))
    assert code == 2
    assert "give --metric judging:bits" in err
