"""The work of a setting, counted call by call without running it.

FLOPs count only matrix products. An operator without any may still sort, scan and move memory, which takes time.
So each torch call of a setting is inspected on the `meta` device, which has shapes but no data:

    calls      that compute something; views are free
    flops      of matrix products, convolutions and fused attention, a multiply-add as 2, as FlopCounterMode counts
    elements   of all other calls: the larger of what a call reads and writes
    bytes      read and written by each call, separately for products and others; a sort of n numbers has log2 n passes
    depth      the longest chain of dependent calls, which remains if everything that can runs in parallel. A recurrence
               over chunks grows with their number, attention does not

Fused attention is one call that writes no attention map, as on CPUs and GPUs. Fusion by compilers is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from predictors.operator_grid import Setting, operator_call, part_settings, specs
from searchspace import registry
from searchspace.model import parts
from searchspace.primitives.context import BuildContext, Layout
from searchspace.registry import Nested
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec
from searchspace.spec.space import Candidate, Choice, Domain, Slot
from searchspace.spec.workload import Workload
from searchspace.validity import why_op_invalid

# Holders of nested operators, by slot: the slot and name of the operator in which they are counted.
HOLDERS = {
    **dict.fromkeys(("normalizer", "qk_norm", "score_bias"), ("mixer", "softmax_attention")),
    "feature_map": ("mixer", "linear_attention"),
    "activation": ("ffn", "mlp"),
}
WIDTH, LENGTH, SIDE = 64, 512, 16
SORTS = ("aten::sort", "aten::topk")
ALLOCATIONS = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided")
FREE = (*ALLOCATIONS, "aten::_unsafe_view")  # the last is a view whose schema does not say so


@dataclass(frozen=True)
class Work:
    calls: int = 0
    flops: int = 0
    elements: int = 0
    product_bytes: int = 0
    other_bytes: int = 0
    depth: int = 0

    def __add__(self, other: Work) -> Work:
        """Work of two calls in sequence."""
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Work:
        return Work(*(times * a for a in astuple(self)))


def work(arch: ArchSpec, workload: Workload) -> Work:
    """Return the work of one call of a network. Raises ValueError naming an operator whose control flow needs data."""
    repeats = [stage.repeats for stage in arch.stages for _ in range(stage.num_blocks)]
    total = Work()
    for name, slot, spec, context in parts(arch):
        times = repeats[int(name.removeprefix("blocks."))] if slot == "block" else 1
        for setting, count in part_settings(slot, spec, context, arch.position).items():
            total += setting_work(setting, workload) * (times * count)
        if isinstance(spec, BlockSpec):
            T = (
                context.layout.max_len
                if not arch.is_causal
                else -(-workload.num_queries // context.layout.stride)
            )
            numbers = workload.batch_size * T * context.d_model
            added = Work(1, 0, numbers, 0, 3 * numbers * workload.bytes_per_value, 1)
            total += added * (times * ((spec.mixer != NONE) + (spec.ffn != NONE)))
    return total


_known: dict[tuple[Setting, Workload], Work] = {}


def setting_work(setting: Setting, workload: Workload) -> Work:
    """Return the work of one call of a setting, cached. Raises ValueError as `work` does."""
    key = setting, workload
    if key not in _known:
        try:
            _known[key] = traced(operator_call(setting, workload, "meta"))
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{setting.key} can't be followed without numbers: {reason}") from error
    return _known[key]


def standard_setting(slot: str, name: str) -> Setting:
    """Return an operator with the first valid combination of its choices at width WIDTH.

    It is causal with LENGTH tokens where it can be, else on a grid of SIDE x SIDE. A nested operator is returned within
    its operator of HOLDERS. Raises ValueError where it cannot be counted by itself.
    """
    holder = HOLDERS.get(slot, (slot, name))
    entry = registry.operator(slot, name)
    registered = registry.operator(*holder)
    if holder[0] not in ("mixer", "ffn", "norm"):
        raise ValueError(
            f"{name}: what one call does is counted for mixers, ffns, norms and what stands in them"
        )
    causal = entry.causal and registered.causal
    layout = Layout(LENGTH) if causal else Layout(SIDE**2, (SIDE, SIDE))
    context = BuildContext(WIDTH, num_layers=2, causal=causal, layout=layout)
    for spec in specs(slot_of(*holder, {slot: slot_of(slot, name)})):
        if why_op_invalid(holder[0], spec, context) is None:
            return Setting(holder[0], spec, context)
    raise ValueError(f"{name}: no setting of its choices fits a width of {WIDTH}")


def slot_of(slot: str, name: str, nested: Mapping[str, Slot] | None = None) -> Slot:
    """Return a slot with one operator and its registered choices; `nested` replaces the slots of these kinds."""
    items: list[tuple[str, Domain]] = []
    for item, domain in registry.operator(slot, name).choices.items():
        if not isinstance(domain, Nested):
            items.append((item, Choice(tuple(domain))))
        else:
            plain = slot_of(domain.slot, domain.candidates[0])
            items.append((item, (nested or {}).get(domain.slot, plain)))
    return Slot((Candidate(name, tuple(sorted(items))),))


def traced(call: Callable[[], Any]) -> Work:
    """Return the work of one call of a function whose tensors are on the `meta` device."""
    count = _Count()
    with torch.no_grad(), _Attention(count), count:
        call()
    return Work(
        count.calls, count.flops, count.elements, count.product_bytes, count.other_bytes, count.deepest
    )


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = self.flops = self.elements = self.product_bytes = self.other_bytes = self.deepest = 0
        self.depth: dict[int, int] = {}  # length of the chain that computed a storage, by its id
        self.is_counting = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name
        if not self.is_counting or name in FREE or _is_view(func):
            return result
        read, written = (_tensors(x) for x in ((args, kwargs), result))
        formula = flop_registry.get(func.overloadpacket)
        flops = 0 if formula is None else formula(*args, **kwargs, out_val=result)
        self.add(read, written, flops, formula is not None, name in SORTS)
        return result

    def add(
        self, read: list[Tensor], written: list[Tensor], flops: int, is_product: bool, is_sort: bool = False
    ) -> None:
        moved = sum(_size(t) * t.element_size() for t in (*read, *written))
        self.calls += 1
        self.flops += flops
        if is_product:
            self.product_bytes += moved
        else:
            passes = (
                max(1, math.ceil(math.log2(max(2, read[0].shape[-1])))) if is_sort and read[0].dim() else 1
            )
            self.elements += passes * max((_size(t) for t in (*read, *written)), default=0)
            self.other_bytes += passes * moved
        after = 1 + max((self.depth.get(_storage(t), 0) for t in read), default=0)
        self.depth.update((_storage(t), after) for t in written)
        self.deepest = max(self.deepest, after)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.is_counting = False
        yield
        self.is_counting = True


class _Attention(TorchFunctionMode):
    """Counts fused attention as the single call that it is on a real device; on `meta` torch would decompose it."""

    def __init__(self, count: _Count) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args[:3]
        with self.count.paused():
            y = q.new_empty(*q.shape[:-1], v.shape[-1])
        flops = 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        self.count.add(_tensors((args, kwargs)), [y], flops, is_product=True)
        self.count.elements += q.shape[:-1].numel() * k.shape[-2]  # of the map, which is never stored
        return y


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _is_view(func: Any) -> bool:
    """Whether every result is a view of an argument."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _size(tensor: Tensor) -> int:
    """Numbers in memory: an expanded axis counts once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, step in sizes if step or not n)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
