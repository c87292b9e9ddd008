"""What training a network costs is counted on whole sequences, whatever call the study times."""

from dataclasses import replace

import pytest

from nas.evaluation.costs import training_price
from nas.request.recipe import load_recipe
from predictors.rates import Rates
from predictors.roofline import estimate_ms
from searchspace.load import load_space
from searchspace.plain import plain_family
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload


@pytest.fixture(scope="module")
def network() -> ArchSpec:
    """The largest uniform decoder of long-lm."""
    encoding, recipe = Encoding(load_space("long-lm")), load_recipe("long-lm")
    archs = [encoding.decode(g) for g in plain_family(encoding, lambda arch: None, recipe.workload, 8)]
    return max(archs, key=lambda arch: (arch.depth, arch.d_model))


def with_window(arch: ArchSpec, window: int) -> ArchSpec:
    def changed(block: BlockSpec) -> BlockSpec:
        if not block.is_active:
            return block
        return replace(block, mixer=OpSpec.of(block.mixer.op, **dict(block.mixer.items) | {"window": window}))

    return replace(arch, blocks=tuple(map(changed, arch.blocks)))


def test_a_window_makes_training_cheaper_though_the_study_times_one_token(network: ArchSpec) -> None:
    recipe = load_recipe("long-lm")
    price = training_price(recipe)
    step = Workload("forward", recipe.alone.batch_size, 4096)
    assert price(network) == estimate_ms(network, step, Rates.of(recipe.rates))
    assert price(with_window(network, 64)) < 0.7 * price(network)
