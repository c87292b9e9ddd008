"""One forward pass over the batch that records what the proxies read, so that they share it.

It runs in training mode: with batch statistics, as in the first step of a training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from proxies.subject import Subject, Unscorable, finite_model

BRANCH = re.compile(r"blocks\.\d+\.(mixer|ffn)")
BLOCK = re.compile(r"blocks\.\d+")
NORM = re.compile(r"blocks\.\d+\.\w+_norm_\w+|final_norm")


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a projection: input `x` [.., in], detached, and output `y` [.., out] with its graph."""

    name: str
    module: Any
    x: Tensor
    y: Tensor


@dataclass(eq=False)
class Recording:
    """Records of the network's parts in the order in which they ran; a repeated block appears each time.

    embedded    [B, T, D] output of the stem
    branches    (name, output) of each mixer and ffn
    streams     output [.., T, D] of each block
    peaks       by mixer, for each of its attention maps: the largest weight of a query, averaged over queries
    """

    uses: list[Use] = field(default_factory=list)
    branches: list[tuple[str, Tensor]] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    peaks: dict[str, list[float]] = field(default_factory=dict)
    embedded: Tensor = field(init=False)
    logits: Tensor = field(init=False)


def recording(subject: Subject) -> Recording:
    """Run and record the network. Raises Unscorable where its outputs are not finite."""
    model = subject.once(finite_model)
    found, maps = Recording(), AttentionMaps()
    with ExitStack() as hooks, maps:
        for name, module in model.named_modules():
            _listen(name, module, found, maps, hooks)
        found.logits = forward(subject)
    found.peaks = maps.peaks
    if not found.logits.isfinite().all():
        raise Unscorable("the outputs are not finite")
    return found


def forward(subject: Subject) -> Tensor:
    """Return the logits [B, ..., W] of the batch."""
    assert subject.batch is not None
    return cast(Tensor, subject.model(subject.batch.inputs)[0])


def _listen(name: str, module: nn.Module, found: Recording, maps: AttentionMaps, hooks: ExitStack) -> None:
    def after(keep: Callable[[Any, Any], None]) -> None:
        hooks.enter_context(module.register_forward_hook(lambda _, x, output: keep(x[0], output)))

    if hasattr(module, "role"):
        after(lambda x, y: found.uses.append(Use(name, module, x.detach(), y)))
    if BRANCH.fullmatch(name):
        entered = module.register_forward_pre_hook(lambda _, inputs: maps.enter(name, inputs[0].shape[1]))
        hooks.enter_context(entered)
        after(lambda x, output: maps.leave())
        after(lambda x, output: found.branches.append((name, output[0])))
    elif BLOCK.fullmatch(name):
        after(lambda x, output: found.streams.append(output[0]))
    elif name.endswith(".normalizer"):
        after(lambda x, weights: maps.add(weights))
    elif name == "stem":
        after(lambda x, output: setattr(found, "embedded", output[0]))


class AttentionMaps(TorchFunctionMode):
    """Intercepts the mixers' attention maps: scaled dot products, softmaxes [B, H, T, S], normalizer outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, list[float]] = {}
        self.inside, self.T = "", 0

    def enter(self, name: str, T: int) -> None:
        self.inside, self.T = name, T

    def leave(self) -> None:
        self.inside = ""

    def add(self, weights: Tensor) -> None:
        """Record the mean over rows of the largest weight, for attention weights [..., T, S]."""
        largest = weights.detach().amax(-1).mean().item()
        self.peaks.setdefault(self.inside, []).append(largest)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.inside.endswith(".mixer"):
            return result
        if func is F.scaled_dot_product_attention:
            with torch.no_grad():
                self.add(attention_map(*args, **kwargs))
        elif getattr(func, "__name__", "") == "softmax" and result.dim() == 4 and result.shape[2] == self.T:
            dim = kwargs["dim"] if "dim" in kwargs else args[1]
            if dim in (-1, 3):
                self.add(result)
        return result


def attention_map(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Return the attention weights [B, H, T, S], which torch's fused attention does not expose.

    q [B, H, T, K], k [B, H, S, K], v [B, H, S, V].
    """
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).nan_to_num()
