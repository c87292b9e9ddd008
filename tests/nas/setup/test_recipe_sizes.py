"""A recipe without a file of its own suits its space: latency of a whole example, and trainings that stay short."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.cli.main import main
from nas.request.recipe import Recipe, load_recipe
from nas.request.sizes import STEPS, TOKENS_A_STEP, example_length
from nas.setup.fitting import FEWEST_TRAINED, MOST_TRAINED
from nas.setup.plan import checked, plan, recipe_of
from searchspace import registry
from searchspace.load import builtin_spaces, load_space
from searchspace.primitives.context import Layout

LONG = """
name = "mine"
task = "causal_lm"
data = "plays"
d_model = [32, 64]
position = "rope"
final_norm = "rmsnorm"
stem = { op = "token_embedding", vocab_size = 256, max_len = 512 }
head = { op = "lm_head", vocab_size = 256 }

[[stages]]
num_blocks = 2
depth = [1, 2]

[blocks]
mixer = ["softmax_attention", "none"]
ffn = ["mlp"]
norm = ["rmsnorm"]
placement = ["pre"]
"""


@pytest.mark.parametrize("name", builtin_spaces())
def test_the_length_of_an_example_is_that_of_the_stem_s_tokens(name: str) -> None:
    stem = load_space(name).stem
    assert example_length(stem) == registry.operator("stem", stem.op).layout(stem, Layout(1)).max_len


def test_a_space_of_one_s_own_is_trained_and_timed_at_its_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LONG, encoding="utf-8")
    recipe = load_recipe(load_space(str(path)))
    assert recipe.space == "mine"
    assert recipe.workload.seq_len == 512
    assert recipe.alone.batch_size * 512 == TOKENS_A_STEP
    assert main(["search", "--space", str(path), "--print-recipe"]) == 0
    assert "seq_len = 512" in capsys.readouterr().out


def test_what_a_file_says_is_kept_and_what_it_leaves_open_suits_the_space(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('space = "small-lm"\ntrials = 7\n[alone]\nsteps = 9\n', encoding="utf-8")
    recipe = load_recipe("small-lm", str(path))
    assert (recipe.trials, recipe.alone.steps, recipe.alone.batch_size) == (7, 9, 2)
    assert recipe.workload.seq_len == 512


def test_a_space_around_an_imported_model_takes_the_defaults() -> None:
    assert load_recipe(load_space("small-lm"), model="folder").alone == Recipe("small-lm").alone


def steps_for(minutes: float | None, tmp_path: Path, recipe: Recipe | None = None, **asked: int) -> int:
    path = tmp_path / "mine.toml"
    path.write_text(LONG, encoding="utf-8")
    space = load_space(str(path))
    wanted = (recipe or load_recipe(space)).changed(minutes=minutes).trained_for(asked.get("steps"))
    return recipe_of(checked(plan(space, wanted))).alone.steps


def test_a_network_of_one_s_own_space_is_trained_for_longer_where_there_is_more_time(tmp_path: Path) -> None:
    assert steps_for(None, tmp_path) == STEPS
    few, some, many = (steps_for(minutes, tmp_path) for minutes in (0.01, 10.0, 20.0))
    assert few == FEWEST_TRAINED
    assert many == pytest.approx(2 * some, rel=0.1)
    assert steps_for(1e6, tmp_path) == MOST_TRAINED


def test_steps_that_are_given_are_kept_whatever_the_time(tmp_path: Path) -> None:
    assert steps_for(20.0, tmp_path, steps=30) == 30
    file = tmp_path / "recipe.toml"
    own = load_recipe(load_space(str(tmp_path / "mine.toml")))
    text = own.to_toml()  # as --print-recipe writes it
    assert "fits_time = true" in text
    file.write_text(text, encoding="utf-8")
    assert load_recipe(load_space(str(tmp_path / "mine.toml")), str(file)) == own
    file.write_text(text.replace("[alone]", "[alone]\nsteps = 70"), encoding="utf-8")
    given = load_recipe(load_space(str(tmp_path / "mine.toml")), str(file))
    assert steps_for(20.0, tmp_path, given) == 70
    assert (
        recipe_of(
            checked(plan(load_space("small-lm"), load_recipe("small-lm").changed(minutes=60)))
        ).alone.steps
        == STEPS
    )
