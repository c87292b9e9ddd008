"""Calls, FLOPs, other numbers, bytes and depth against closed forms, and what the roofline makes of them."""

import json
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from nas.cli.main import main
from nas.errors import UsageError
from nas.evaluation.judge import CostStage
from nas.request.recipe import Recipe
from predictors.operator_grid import Setting
from predictors.rates import Rates
from predictors.roofline import estimate_ms, seconds
from predictors.work import LENGTH, Work, setting_work, standard_setting, traced, work
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.primitives.context import BuildContext, Layout
from searchspace.sampling import sample
from searchspace.spec.arch import OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload

D, FF, T = 16, 40, 12
RATES = Rates(flops=1e9, bytes=1e8, call=1e-5)


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def test_an_mlp_is_two_products_and_an_activation_one_after_the_other() -> None:
    spec = OpSpec.of("mlp", d_ff=FF, activation=OpSpec("gelu"))
    found = setting_work(
        Setting("ffn", spec, BuildContext(D, causal=True, layout=Layout(T))), Workload(seq_len=T)
    )
    hidden, products = T * FF, 2 * (T * D + D * FF + T * FF)
    assert found == Work(3, 4 * T * D * FF, hidden, 4 * products, 4 * 2 * hidden, 3)


def test_what_does_not_wait_has_no_depth_and_a_recurrence_has_one_for_each_step() -> None:
    x = meta(8)
    assert traced(lambda: [x + 1 for _ in range(5)]) == Work(5, 0, 40, 0, 5 * 64, 1)

    def scanned() -> torch.Tensor:
        state = x
        for _ in range(5):
            state = state * 2
        return state

    assert traced(scanned).depth == 5


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda: meta(4, 6).T.reshape(4, 6).unsqueeze(0),
            Work(1, 0, 24, 0, 192, 1),
        ),  # one copy, views are free
        (lambda: meta(4, 6).view(24)[3:], Work()),
        (lambda: meta(4, 1).expand(4, 100).sum(1), Work(1, 0, 4, 0, 4 * 4 + 4 * 4, 1)),
        (lambda: meta(4, 8).sort(-1), Work(1, 0, 3 * 32, 0, 3 * 32 * (4 + 4 + 8), 1)),
    ],
    ids=["copy", "views", "expanded", "sort"],
)
def test_memory_is_what_a_call_reads_and_writes(call: Callable[[], object], expected: Work) -> None:
    assert traced(call) == expected


def test_fused_attention_moves_queries_keys_values_and_what_it_gives_and_no_map() -> None:
    q, k, v = meta(2, 3, 5, 8), meta(2, 3, 7, 8), meta(2, 3, 7, 4)
    found = traced(lambda: F.scaled_dot_product_attention(q, k, v))
    moved = 4 * (q.numel() + k.numel() + v.numel() + 2 * 3 * 5 * 4)
    assert found == Work(1, 2 * 2 * 3 * 5 * 7 * (8 + 4), 2 * 3 * 5 * 7, moved, 0, 1)


@pytest.mark.parametrize("space", ["tiny-lm", "small-lm", "tiny-vision"])
def test_the_flops_of_networks_are_those_of_their_cost(space: str) -> None:
    workload = Workload(batch_size=2, seq_len=40)
    for arch in sample(Encoding(load_space(space)), 4, 0, workload):
        found = work(arch, workload)
        assert found.flops == cost(arch, workload).flops
        assert found.depth <= found.calls


def test_a_decoding_step_reads_the_state_that_was_kept() -> None:
    setting = standard_setting("mixer", "softmax_attention")
    short, long = (setting_work(setting, Workload("decode", context_len=n)) for n in (64, 512))
    held = setting.spec["num_groups"] * setting.spec["head_dim"] * 2 * 4
    assert (
        long.product_bytes + long.other_bytes - short.product_bytes - short.other_bytes >= (512 - 64) * held
    )
    assert long.calls == short.calls


def test_entmax_does_more_than_softmax_with_the_same_products() -> None:
    softmax, entmax = (
        setting_work(standard_setting("normalizer", n), Workload(seq_len=LENGTH))
        for n in ("softmax", "entmax")
    )
    assert entmax.flops == softmax.flops
    assert entmax.elements > 3 * softmax.elements
    assert entmax.other_bytes > 10 * softmax.other_bytes


def test_products_take_the_longer_of_computing_and_moving_and_all_else_takes_moving() -> None:
    assert seconds(Work(calls=3), RATES) == pytest.approx(3e-5)
    assert seconds(Work(flops=2 * 10**6, product_bytes=10**5), RATES) == pytest.approx(2e-3)
    assert seconds(Work(flops=10**6, product_bytes=10**6, other_bytes=10**6), RATES) == pytest.approx(2e-2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flops=1e9,bytes=1e9", "lacks call"),
        ("flops=1e9,bytes=0,call=1", "each above 0"),
        ("flops=fast,bytes=1,call=1", "'flops=fast'"),
        ("flops=1,bytes=1,call=1,cores=2", "'cores=2'"),
    ],
)
def test_rates_that_say_too_little_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"--rates .*{said}"):
        Recipe(space="tiny-lm", rates=text)


def test_rates_read_as_they_print() -> None:
    assert Rates.of(str(RATES)) == RATES


def test_a_search_may_ask_for_the_estimate_of_a_device_with_its_rates() -> None:
    (arch,) = sample(Encoding(load_space("tiny-lm")), 1, 0, Workload())
    recipe = Recipe(space="tiny-lm", rates=str(RATES))
    found = CostStage(recipe, ["estimated_latency", "parameters"])(arch)
    assert found["estimated_latency"] == pytest.approx(estimate_ms(arch, recipe.workload, RATES))
    assert found["parameters"] == cost(arch, recipe.workload).parameters


def test_an_operator_shows_its_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "entmax", "--work", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    expected = setting_work(standard_setting("normalizer", "entmax"), Workload(seq_len=LENGTH))
    assert {n: shown["work"][n] for n in vars(expected)} == vars(expected)
    assert main(["ops", "--work"]) == 2
    assert main(["ops", "rope", "--work"]) == 2
