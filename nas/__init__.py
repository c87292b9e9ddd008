"""Neural architecture search for efficient transformers.

`import_model`, `search`, `resume`, `read`, `extract`; `connect` to a service.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "search": "nas.api",
    "resume": "nas.api",
    "read": "nas.api",
    "Result": "nas.api",
    "extract": "nas.extraction",
    "import_model": "nas.importing.load",
    "connect": "nas.client",
    "Objective": "studies.records",
    "Recipe": "nas.request.recipe",
    "NasError": "nas.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that light commands do not wait for numpy or torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
