"""A recipe without a file of its own suits its space: latency of a whole example, and trainings that stay short."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.cli.main import main
from nas.request.recipe import Recipe, load_recipe
from nas.request.sizes import TOKENS_A_STEP, example_length
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
