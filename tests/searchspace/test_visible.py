"""No setting is offered that nobody can see: at the length of the inputs each changes what is computed or its cost."""

from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
from torch import Tensor

from nas.importing.space import judged_length, space_data
from proxies.batch import random_batch
from searchspace.cost import cost
from searchspace.load import builtin_spaces, load_space, resolve
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.genome import Encoding, Genome
from searchspace.spec.plain import plain_attention
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid

SEEN_OTHERWISE = {
    "act_attention.sink_scale": "in the heads that calibration chooses",
    "var_attention.sink_scale": "in the heads that calibration chooses",
    "lightning_attention.chunk": "in time: how many tokens are computed at once",
    "prepbn.share": "in training",
}
CASES = [pytest.param(n, marks=[pytest.mark.slow] * (n == "everything")) for n in builtin_spaces()]


def first_valid(encoding: Encoding, changes: dict[int, int]) -> Genome | None:
    """With these genes, the others as first named or, where that is not valid, last or second."""
    for rest in (0, -1, 1):
        genes = [min(rest % len(v.values), len(v.values) - 1) for v in encoding.variables]
        for place, value in changes.items():
            genes[place] = value
        if why_invalid(encoding.decode(tuple(genes))) is None:
            return tuple(genes)
    return None


def settings(encoding: Encoding) -> Iterator[tuple[str, list[ArchSpec]]]:
    """Of each number of an operator in the first block: networks that differ in it alone."""
    for place, variable in enumerate(encoding.variables):
        is_first = ".blocks.0." in variable.name or ".*." in variable.name
        if not is_first or len(variable.values) < 2 or isinstance(variable.values[0], bool | str):
            continue
        chain: dict[int, int] = {}
        above = variable
        while above.parent is not None:
            chain[above.parent] = above.when[-1]
            above = encoding.variables[above.parent]
        found = [first_valid(encoding, {**chain, place: i}) for i in range(len(variable.values))]
        yield variable.name, [encoding.decode(genome) for genome in found if genome is not None]


@torch.no_grad()
def computed(arch: ArchSpec, inputs: Tensor) -> tuple[Tensor, dict[str, torch.Size]]:
    """The output under weights that only depend on their names and shapes; these shapes."""
    model = Model(arch).eval()
    for name, tensor in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.3)
    return model(inputs)[0], {name: tensor.shape for name, tensor in model.named_parameters()}


def invisible(space: SpaceSpec, inputs: Tensor) -> list[str]:
    encoding, found = Encoding(space), []
    workload = Workload(seq_len=inputs.shape[1] if inputs.dim() == 2 else 64)
    for name, archs in settings(encoding):
        if name.endswith(tuple(SEEN_OTHERWISE)):
            continue
        for one, other in combinations(archs, 2):
            if cost(one, workload) != cost(other, workload):
                continue
            torch.manual_seed(0)
            first, shapes = computed(one, inputs)
            torch.manual_seed(0)
            second, others = computed(other, inputs)
            if shapes == others and torch.allclose(first, second, rtol=1e-5, atol=1e-6):
                found.append(name)
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_number_offered_by_a_built_in_space_can_be_seen(name: str):
    space = load_space(name)
    assert invisible(space, random_batch(space, 2, seed=0).inputs) == []


@pytest.mark.parametrize("max_len", [32, 131072])
def test_every_number_offered_around_an_import_can_be_seen(max_len: int):
    norm, bias = OpSpec.of("rmsnorm", eps=1e-6), OpSpec.of("dense", bias=False)
    block = BlockSpec(plain_attention(1, 2, 8), OpSpec.of("swiglu", d_ff=32), norm, bias)
    stem, head = (
        OpSpec.of("token_embedding", vocab_size=50, max_len=max_len),
        OpSpec.of("lm_head", vocab_size=50),
    )
    arch = ArchSpec(
        "causal_lm", stem, 16, (block,) * 2, (StageSpec(2, 16),), head, OpSpec.of("rope", base=10000, dim=8)
    )
    space = resolve(space_data(arch, "around", "plays"))
    inputs = torch.randint(0, 50, (2, judged_length(stem)))
    windows = space.to_json()["stages"][0]["blocks"][0]["mixer"]["candidates"][0]["window"]
    assert len(windows) == 3
    assert invisible(space, inputs) == []
