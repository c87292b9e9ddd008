"""Disentangled attention: content looks at distances, and distances look at content."""

from typing import Any

import pytest
import torch

from searchspace.ops.attention.disentangled_attention import borders, rows_of_pairs
from searchspace.primitives.axes import Axis, declared_tensors
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.spec.arch import OpSpec
from searchspace.supernet.slicing import take
from searchspace.validity import why_op_invalid
from tests.searchspace.ops.identities import HEADS, D, activations, assert_equal, attention, build, output

DEFINING_TERM = ("gather(-1, rows.mT).mT", "gather(-1, rows).mT")
PAST, FUTURE = 0, 1


def disentangled(**items: Any) -> Any:
    settings = HEADS | {"terms": "both", "span": 4, "max_distance": 0} | items
    return build("mixer", "disentangled_attention", False, **settings)


@torch.no_grad()
def test_without_rows_it_is_attention_with_scores_divided_by_the_number_of_terms():
    for terms, count in (("both", 3), ("c2p", 2), ("p2c", 2)):
        module, plain, x = disentangled(terms=terms), attention(False), activations()
        for name in ("relative_keys", "relative_queries"):
            if hasattr(module, name):
                getattr(module, name).zero_()
        weights = {n: w for n, w in module.state_dict().items() if "relative" not in n}
        plain.load_state_dict(weights | {"q_proj.weight": weights["q_proj.weight"] / count**0.5})
        assert_equal(output(module, x), output(plain, x))


@pytest.mark.parametrize(("side", "shift"), [(PAST, 1), (PAST, 2), (FUTURE, 1), (FUTURE, 3)])
@pytest.mark.parametrize("terms", ["c2p", "p2c"])
@torch.no_grad()
def test_one_row_alone_looks_at_the_token_of_its_distance(side: int, shift: int, terms: str):
    """Queries or keys are the same for all tokens, and only one row answers them: a shift of the sequence."""
    module, x = disentangled(terms=terms), activations()
    x[..., 0] = 1.0
    role, table = ("q", module.relative_keys) if terms == "c2p" else ("k", module.relative_queries)
    for name in ("q", "k"):
        module.get_parameter(f"{name}_proj.weight").zero_()
    module.get_parameter(f"{role}_proj.weight")[:, 0] = 100.0
    row = shift if side == PAST else shift - 1  # the rows of the past begin with the distance 0
    table.zero_()[side * 4 + row] = 100.0
    step = -shift if side == PAST else shift
    seen = range(max(0, -step), 9 - max(0, step))
    values = module.v_proj(x).unflatten(2, (2, 4)).repeat_interleave(2, 2).flatten(2)
    shifted = module.o_proj(values[:, [i + step for i in seen]])
    assert_equal(output(module, x)[:, seen], shifted)


@torch.no_grad()
def test_tokens_farther_than_the_span_share_the_last_row_of_their_side():
    rows = rows_of_pairs(9, 4, 4, 0, torch.device("cpu"))
    assert rows[8].tolist() == [3, 3, 3, 3, 3, 3, 2, 1, 0]
    assert rows[0].tolist() == [0, 4, 5, 6, 7, 7, 7, 7, 7]


def test_logarithmic_rows_end_at_the_greatest_distance():
    """Of 8 rows the first 4 distances have one each, then ratios of (15 / 4)^(1/3) up to 15."""
    assert borders(8, 16) == (1, 2, 3, 4, 5, 7, 10, 16)
    assert borders(256, 512)[:129] == tuple(range(1, 130))
    assert borders(256, 512)[-1] == 512


@torch.no_grad()
def test_a_short_sequence_reads_the_rows_that_it_needs_alone():
    """With every row read, what the others hold changes nothing, and what is read is the same."""
    for span, farthest in ((16, 0), (8, 16), (4, 0)):
        module, x = disentangled(span=span, max_distance=farthest), activations(5)
        before, behind = module.rows_reached(5)
        assert (before, behind) == (min(5, span), 4)
        expected = output(module, x)
        for table in (module.relative_keys, module.relative_queries):
            table[before:span] = torch.nan
            table[span + behind :] = torch.nan
        assert_equal(output(module, x), expected)


@torch.no_grad()
def test_a_smaller_span_keeps_the_rows_of_the_nearest_distances():
    wide = disentangled(span=8)
    narrow, x = disentangled(span=4), activations(4)
    narrow.load_state_dict(
        {n: take(t, axes_of(wide, n), axes_of(narrow, n)) for n, t in wide.state_dict().items()}
    )
    assert_equal(output(narrow, x), output(wide, x))


def axes_of(module: Any, name: str) -> tuple[Axis, ...]:
    found: tuple[Axis, ...] = dict(declared_tensors(module))[name].axes
    return found


@torch.no_grad()
def test_padding_on_either_side_is_seen_by_nobody():
    module, x = disentangled(), activations(6)
    valid = torch.tensor([[False, False, True, True, True, True], [True, True, True, True, False, False]])
    found = output(module, x, Tokens(valid=valid))
    for b, tokens in ((0, slice(2, 6)), (1, slice(0, 4))):
        assert_equal(found[b, tokens], output(module, x[b : b + 1, tokens])[0])


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ({"span": 2, "max_distance": 128}, "span = 2 must be at least 4"),
        ({"span": 64, "max_distance": 33}, "max_distance = 33 must be more than 33"),
        ({"terms": "p2p"}, "terms = 'p2p' must be 'both' or 'c2p' or 'p2c'"),
    ],
)
def test_what_has_no_rows_is_refused(items: dict[str, Any], sentence: str):
    settings = HEADS | {"terms": "both", "span": 8, "max_distance": 0} | items
    spec = OpSpec.of("disentangled_attention", **settings)
    reason = why_op_invalid("mixer", spec, BuildContext(D, causal=False))
    assert reason is not None
    assert sentence in reason
