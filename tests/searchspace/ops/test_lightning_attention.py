"""Lightning attention: the decay schedule, and what each rate does to the past."""

import math
from typing import Any

import pytest
import torch

from searchspace.contracts.slicing import supernet_and_archs
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.fixed_decay import log_decays
from searchspace.primitives.recurrence import recurrence_chunked
from searchspace.registry import build as build_op
from searchspace.registry import operator
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = (
    "return [-slope * factor for slope in alibi_slopes(G)]",
    "return [-slope for slope in alibi_slopes(G)]",
    "searchspace/primitives/fixed_decay.py",
)
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 2,
    "head_dim": 4,
    "norm": "all",
    "decay": "alibi",
    "chunk": 32,
}


def test_the_schedules_are_the_published_ones():
    slopes = [-x for x in log_decays("alibi", 8, 0, 4)]
    assert slopes == pytest.approx([2.0**-h * (1 + 1e-5) for h in range(1, 9)], rel=1e-12)
    assert log_decays("retnet", 2, 3, 4) == pytest.approx([math.log(31 / 32), math.log(63 / 64)], rel=1e-12)


def test_a_group_keeps_its_decay_in_a_smaller_network():
    supernet, archs = supernet_and_archs(operator("mixer", "lightning_attention"), causal=True, count=8)
    sizes = set()
    for arch in archs:
        for name, decays in supernet.weights(arch).items():
            if name.endswith("log_decay"):
                layer, schedule = int(name.split(".")[1]), name.split(".")[-1].removesuffix("_log_decay")
                of_all = log_decays(schedule, 4, layer, len(arch.blocks))
                assert decays.tolist() == pytest.approx(of_all[: len(decays)], rel=1e-6)
                sizes.add(len(decays))
    assert len(sizes) > 1


def test_the_last_layer_is_linear_attention_that_keeps_everything():
    context = BuildContext(D, layer=3, num_layers=4)
    module: Any = build_op("mixer", OpSpec.of("lightning_attention", **SETTINGS), context).double()
    x = activations(40)
    q, k, v, log_a = module.decayed(x, Tokens())
    assert log_a.abs().max() <= 1e-5
    expected = module.output(recurrence_chunked(q, k, v, None)[0], x)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-2, atol=1e-3)


def test_the_tile_does_not_change_the_function():
    x, first = activations(100), build("mixer", "lightning_attention", **SETTINGS)
    second = build("mixer", "lightning_attention", **SETTINGS | {"chunk": 128})
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(output(second, x), output(first, x), rtol=1e-9, atol=1e-9)


def test_the_output_does_not_depend_on_the_scale_of_the_values():
    module, x = build("mixer", "lightning_attention", **SETTINGS), activations()
    q, k, v, log_a = module.decayed(x, Tokens())
    o = recurrence_chunked(q, k, v, log_a)[0]
    assert_equal(module.output(1e6 * o, x), module.output(1e7 * o, x))
