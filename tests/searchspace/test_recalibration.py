"""Statistics and codebooks of one network, measured on its own activations."""

from dataclasses import replace

import pytest
import torch

from searchspace.fold import fold
from searchspace.load import resolve
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.primitives.norms import of_run
from searchspace.recalibration import needs_recalibration, recalibrate
from searchspace.sampling import sample
from searchspace.spec.arch import OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from tests.searchspace.archs import BLOCK, MLP, decoder, tiny_space

REPBN = OpSpec("repbn")
VQ = OpSpec.of("vq_attention", num_groups=1, heads_per_group=2, head_dim=4, num_codes=16)
BATCHES = [torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(i)) for i in range(3)]


def trained(model: Model) -> Model:
    """Random weights everywhere, statistics as they were."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.double().eval()


def test_statistics_are_the_mean_over_batches_of_what_the_norm_is_given():
    model = trained(Model(decoder(replace(BLOCK, norm=REPBN, mixer=OpSpec("none"), ffn=MLP))))
    recalibrate(model, BATCHES)
    given = [model.part("stem").weight[ids].flatten(0, 1) for ids in BATCHES]
    norm = model.part("blocks.0.ffn_norm_in")
    torch.testing.assert_close(norm.mean, torch.stack([x.mean(0) for x in given]).mean(0).detach())
    torch.testing.assert_close(
        norm.variance, torch.stack([x.var(0, correction=0) for x in given]).mean(0).detach()
    )
    assert not model.training


NORMS = [OpSpec("batchnorm"), REPBN, OpSpec.of("prepbn", share=0.5), OpSpec("unified_norm")]


@pytest.mark.parametrize("progress", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_with_the_statistics_of_one_batch_a_network_computes_on_it_what_it_does_in_training(
    norm: OpSpec, repeats: int, progress: float
):
    """In every run of a repeated stage, and at every moment of a schedule; folded, too."""
    model = trained(Model(decoder(replace(BLOCK, norm=norm, placement="peri"), repeats=repeats)))
    model.progress = progress
    recalibrate(model, BATCHES[:1])
    with torch.no_grad():
        stored, folded = model(BATCHES[0])[0], fold(model)(BATCHES[0])[0]
        by_the_batch = model.train()(BATCHES[0])[0]
    torch.testing.assert_close(stored, by_the_batch, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded, stored, rtol=1e-9, atol=1e-9)


def test_each_run_has_statistics_of_its_own_and_a_smaller_network_takes_the_first():
    norms = {"candidates": ["batchnorm", "unified_norm"], "shared": True}
    data = tiny_space(stages=[{"num_blocks": 2, "repeats": [1, 3]}])
    data["blocks"] |= {"mixer": "none", "ffn": data["blocks"]["ffn"][0], "norm": norms}
    supernet = Supernet(resolve(data))
    archs = sample(Encoding(supernet.space), 8, seed=0, workload=Workload())
    for arch in archs:
        model, names = supernet.extract(arch), {"batchnorm": "mean", "unified_norm": "log_second_moment"}
        wanted = {of_run(names[arch.blocks[0].norm.op], r) for r in range(arch.stages[0].repeats)}
        found = {n.split(".")[-1] for n, _ in model.named_buffers() if "variance" not in n}
        assert found == wanted
    assert {arch.stages[0].repeats for arch in archs} == {1, 3}


def test_codebooks_are_set_behind_norms_that_still_wait_for_their_statistics():
    """With few distinct tokens each key gets its code, so the first layer becomes exact attention."""
    model = trained(Model(decoder(replace(BLOCK, mixer=VQ, norm=REPBN))))
    assert needs_recalibration(model)
    recalibrate(model, BATCHES[:1])
    mixer, norm = model.part("blocks.0.mixer"), model.part("blocks.0.mixer_norm_in")
    keys = mixer.k_proj(norm(model.part("stem").weight, Tokens())[0])[BATCHES[0].unique()]
    assert torch.cdist(keys, mixer.codebook[0]).amin(1).max() < 1e-9


def test_a_network_without_either_needs_nothing():
    assert not needs_recalibration(Model(decoder(BLOCK)))


def test_a_folded_network_computes_the_same_and_has_no_statistics():
    arch = decoder(replace(BLOCK, norm=REPBN, placement="peri"), BLOCK, norm=REPBN)
    model = trained(Model(arch))
    recalibrate(model, BATCHES)
    folded = fold(model)
    torch.testing.assert_close(folded(BATCHES[0])[0], model(BATCHES[0])[0], rtol=1e-12, atol=1e-12)
    assert not needs_recalibration(folded)
    assert {b.norm.op for b in folded.arch.blocks} == {"channel_affine", "rmsnorm"}
    torch.testing.assert_close(
        folded.float()(BATCHES[0])[0], model.float()(BATCHES[0])[0], rtol=1e-5, atol=1e-5
    )


def test_folding_leaves_a_network_with_nothing_to_fold_as_it_is():
    model = Model(decoder(BLOCK))
    assert fold(model) is model
