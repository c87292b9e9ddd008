"""Tensors that depend only on the configuration: computed once, cached per device, but never during a trace.

While a network is traced or exported, tensors are symbolic. If they were cached, later runs would take them for values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


def kept(count: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Return a decorator that caches the last `count` results of a function of hashable arguments.

    Cached tensors work in inference and training, whichever comes first.
    """

    def decorate(make: Callable[..., Made]) -> Callable[..., Made]:
        results: dict[tuple[Any, ...], Made] = {}

        @wraps(make)
        def get(*key: Any) -> Made:
            if torch.compiler.is_dynamo_compiling():
                return make(*key)
            if key not in results:
                with torch.inference_mode(False):
                    made = make(*key)
                if not all(type(t) is Tensor for t in _tensors(made)):
                    return made
                while len(results) >= count:
                    results.pop(next(iter(results)))
                results[key] = made
            return results[key]

        return get

    return decorate


def _tensors(value: Any) -> Iterator[Any]:
    """Every tensor in a tensor, a sequence of tensors or an object that holds some."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        for part in vars(value).values():
            yield from _tensors(part)
