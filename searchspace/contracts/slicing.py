"""A sub-network extracted from the supernet computes what the supernet computes for it, and trains only its slice."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract, once
from searchspace.load import resolve
from searchspace.registry import Operator
from searchspace.sampling import sample, valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet


def space_of(entry: Operator, causal: bool) -> SpaceSpec:
    """Return a small space in which the operator can be chosen in its slot, with all its settings."""
    heads = {"num_groups": [1, 2], "heads_per_group": [1, 2], "head_dim": [8, 16]}
    attention: dict[str, Any] = {
        "op": "softmax_attention",
        **heads,
        "window": 0,
        "sinks": 0,
        "normalizer": "softmax",
        "qk_norm": "none",
        "score_bias": "none",
        "temperature": "none",
    }
    blocks: dict[str, Any] = {
        "mixer": [attention, "none"],
        "ffn": [{"op": "mlp", "d_ff": [16, 32], "activation": "gelu"}],
        "norm": ["rmsnorm", "none"],
        "placement": ["pre", "post", "peri", "parallel", "output"],
    }
    stages: list[dict[str, Any]] = [{"num_blocks": 2, "depth": [1, 2]}]
    data: dict[str, Any] = {
        "name": "contract",
        "task": "causal_lm" if causal else "classification",
        "data": "random",
        "d_model": [16, 24],
        "stem": {"op": "token_embedding", "vocab_size": 16, "max_len": 64}
        if causal
        else {"op": "patch_embedding", "image_size": 8, "patch_size": 1, "channels": 1},
        "head": {"op": "lm_head", "vocab_size": 16} if causal else {"op": "classifier", "num_classes": 10},
        "final_norm": "rmsnorm",
        "stages": stages,
        "blocks": blocks,
    }
    if entry.slot in ("normalizer", "qk_norm", "score_bias"):
        attention[entry.slot] = [attention[entry.slot], entry.name]
    elif entry.slot == "feature_map":
        blocks["mixer"] = [{"op": "linear_attention", **heads, "feature_map": entry.name}, attention]
    elif entry.slot == "activation":
        blocks["ffn"] = [{"op": "mlp", "d_ff": [16, 32], "activation": entry.name}]
    elif entry.slot == "mixer":
        blocks["mixer"] = [entry.name, attention]
    elif entry.slot in ("stem", "head"):
        fixed = next(cases.configurations(entry.slot, entry.name))
        data[entry.slot] = {"op": entry.name, **dict(fixed.items)}
        if causal and entry.slot == "head" and fixed.get("vocab_size"):
            data["stem"]["vocab_size"] = fixed["vocab_size"]
    elif entry.slot == "position":
        data["position"] = [entry.name, "none"]
    elif entry.slot in ("transition", "way_back"):
        stages.append({"num_blocks": 1, "width_ratio": [1, 2], "enter": entry.name, "repeats": [1, 2]})
    elif entry.slot in blocks:
        blocks[entry.slot] = [entry.name, *[b for b in blocks[entry.slot] if b != entry.name][:1]]
    elif entry.slot == "projection":
        blocks["projection"] = [entry.name]
    return resolve(data)


def supernet_and_archs(entry: Operator, causal: bool, count: int = 4) -> tuple[Supernet, list[ArchSpec]]:
    space = space_of(entry, causal)
    encoding = Encoding(space)
    archs = sample(encoding, count, seed=0, workload=Workload())
    draws = islice(valid_architectures(encoding, np.random.default_rng(1), Workload()), 100)
    archs.append(next(arch for _, arch in draws if f'"{entry.name}"' in arch.canonical))
    supernet = Supernet(space)
    spread(supernet)
    return supernet, archs


@torch.no_grad()
def spread(supernet: Supernet) -> None:
    """Fill the supernet with random weights, also where an operator starts at 0."""
    for name, declared in supernet.declared.items():
        if declared.role == "parameter":
            supernet.tensors[name].add_(torch.randn_like(supernet.tensors[name]), alpha=0.1)


@contract(when=once)
@torch.no_grad()
def extracted_model_computes_what_the_supernet_computes(case: Case) -> None:
    """Its weights equal the slices bitwise, its outputs within a tolerance.

    A slice has gaps in memory and a copy does not, so a matrix product may use another kernel with another rounding.
    """
    supernet, archs = supernet_and_archs(case.entry, case.causal)
    for arch in archs:
        inputs, extracted = cases.network_inputs(arch), supernet.extract(arch)
        slices = supernet.weights(arch)
        for name, tensor in extracted.state_dict().items():
            assert torch.equal(tensor, slices[name]), f"{arch.id}: {name} is not the supernet's slice"
        shared = supernet.forward(arch, inputs, training=False)
        what = f"extracted and in the supernet {arch.id} computes two results, different"
        assert_close(extracted(inputs)[0], shared, 1e-12, what)


@contract(when=once)
def gradients_reach_exactly_the_slices_used(case: Case) -> None:
    supernet, archs = supernet_and_archs(case.entry, case.causal)
    names = [name for name, t in supernet.tensors.items() if t.requires_grad]
    for arch in archs[-2:]:
        loss = supernet.forward(arch, cases.network_inputs(arch)).square().sum()
        gradients = torch.autograd.grad(loss, supernet.parameters(), allow_unused=True)
        used = supernet.weights(arch)
        for name, gradient in zip(names, gradients, strict=True):
            inside = mask_of(supernet.tensors[name], used.get(name))
            if gradient is not None:
                assert not gradient[~inside].any(), f"{name} has a gradient outside the slice that is used"
            if name in used and not is_absorbed(name):
                reached = gradient is not None and bool(gradient.any())
                assert reached, f"{name} is used and has no gradient"


def mask_of(shared: Tensor, used: Tensor | None) -> Tensor:
    """Return a mask [...] like `shared`, True at the entries that `used` depends on."""
    if used is None:
        return torch.zeros_like(shared, dtype=torch.bool)
    (share,) = torch.autograd.grad(used.sum(), shared, retain_graph=True)
    return share != 0


def is_absorbed(name: str) -> bool:
    """Whether a norm or a softmax over one key can absorb the gradient; not for projections to the residual stream."""
    return not name.endswith(("o_proj.weight", "down_proj.weight"))
