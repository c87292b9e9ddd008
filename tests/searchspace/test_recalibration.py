"""Statistics and codebooks of one network, measured on its own activations."""

from dataclasses import replace

import torch

from searchspace.fold import fold
from searchspace.model import Model
from searchspace.recalibration import needs_recalibration, recalibrate
from searchspace.spec.arch import OpSpec
from tests.searchspace.archs import BLOCK, MLP, decoder

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


def test_repeated_blocks_are_averaged_over_their_executions():
    block = replace(BLOCK, norm=REPBN, mixer=OpSpec("none"))
    model = trained(Model(decoder(block, repeats=2)))
    recalibrate(model, BATCHES[:1])
    model.train()
    kept = model(BATCHES[0])[1]
    means = [kept[f"blocks.0@{r}"]["ffn_norm_in"]["mean"] for r in (0, 1)]
    torch.testing.assert_close(model.part("blocks.0.ffn_norm_in").mean, torch.stack(means).mean(0))


def test_codebooks_are_set_behind_norms_that_still_wait_for_their_statistics():
    """With few distinct tokens each key gets its code, so the first layer becomes exact attention."""
    model = trained(Model(decoder(replace(BLOCK, mixer=VQ, norm=REPBN))))
    assert needs_recalibration(model)
    recalibrate(model, BATCHES[:1])
    mixer, norm = model.part("blocks.0.mixer"), model.part("blocks.0.mixer_norm_in")
    keys = mixer.k_proj(norm(model.part("stem").weight, None)[0])[BATCHES[0].unique()]
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
