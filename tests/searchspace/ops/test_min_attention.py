"""Attention with one similarity matrix and nothing else."""

import torch

from tests.searchspace.ops.identities import D, activations, assert_equal, attention, build, output

DEFINING_TERM = ("L = self.triangle.tril()", "L = self.triangle")


@torch.no_grad()
def test_with_the_product_of_two_maps_it_is_attention_with_those_maps():
    """M = W_q^T W_k at full width; values and outputs are the identity."""
    for causal in (True, False):
        full = attention(causal, num_groups=1, heads_per_group=1, head_dim=D)
        module, x = (
            build("mixer", "min_attention", causal, num_heads=1, similarity="collapsed"),
            activations(),
        )
        full.v_proj.weight.copy_(torch.eye(D))
        full.o_proj.weight.copy_(torch.eye(D))
        module.similarity.copy_(full.q_proj.weight.T @ full.k_proj.weight)
        assert_equal(output(module, x), output(full, x))


@torch.no_grad()
def test_symmetric_similarities_are_those_of_a_positive_matrix_and_read_no_upper_half():
    module, x = build("mixer", "min_attention", num_heads=2, similarity="symmetric"), activations()
    scores = module.queries(x) @ x.unsqueeze(1).mT
    assert_equal(scores, scores.mT)
    assert (torch.linalg.eigvalsh(scores) > -1e-9).all()
    before = output(module, x)
    module.triangle.add_(torch.ones(D, D).triu(1))
    assert_equal(output(module, x), before)


def test_it_has_one_matrix_for_each_head_where_attention_has_four():
    module = build("mixer", "min_attention", num_heads=1, similarity="collapsed")
    assert sum(p.numel() for p in module.parameters()) == D * D
