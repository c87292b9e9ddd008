"""Tensors that follow from the configuration alone: made once, kept per device, and never those of a trace.

While a network is traced or exported, what a function makes stands for a value and holds none. Kept, it would be taken
for a number by every later run of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


def kept(count: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """A decorator that keeps the last `count` results of a function of hashable arguments.

    They serve inference and training alike, whichever asks first.
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
    """Every tensor in a tensor, a sequence of them or an object that holds some."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        for part in vars(value).values():
            yield from _tensors(part)
