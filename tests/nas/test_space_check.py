"""`nas spaces check` of a space that holds nothing ends, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import UsageError
from nas.setup import space_check

SPACE = """
name = "mine"
task = "causal_lm"
data = "plays"
d_model = [32, 64]
stem = { op = "token_embedding", vocab_size = 256, max_len = 64 }
head = { op = "lm_head", vocab_size = 256 }

[[stages]]
num_blocks = 2
depth = DEPTH

[blocks]
mixer = ["softmax_attention", "none"]
ffn = ["mlp", "none"]
"""


@pytest.mark.parametrize(
    ("depth", "more", "reason"),
    [
        ("[0]", "", "nothing to search"),
        ("[2]", '[[constraints]]\nquantity = "parameters"\nupper = 100\n', "bound on parameters"),
    ],
)
def test_a_space_without_a_valid_network_is_refused_with_the_commonest_reasons(
    depth: str, more: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_check, "NUM_DRAWS", 200)
    file = tmp_path / "mine.toml"
    file.write_text(SPACE.replace("DEPTH", depth) + more)
    with pytest.raises(UsageError, match=f"none of 200 .*{reason}"):
        space_check.check(str(file))
