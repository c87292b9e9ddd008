"""Names of metrics: built-in ones and user-defined functions. Does not import torch.

    module:function             higher values are better
    module:function:minimize    lower values are better

A function is only imported in a process whose user has named it there, and in its child processes, since a study from
somebody else could name any code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.errors import UsageError

PERMITTED = "NAS_METRIC"  # environment variable: comma-separated names that a process may import
DIRECTIONS = ("maximize", "minimize")


def is_own(name: str) -> bool:
    return ":" in name


def parsed(metric: str) -> tuple[str, str]:
    """(module:function, direction). Raises UsageError if `metric` is not of that form."""
    module, _, rest = metric.partition(":")
    function, _, direction = rest.partition(":")
    direction = direction or DIRECTIONS[0]
    is_path = all(part.isidentifier() for part in (*module.split("."), function))
    if not is_path or direction not in DIRECTIONS:
        raise UsageError(
            f"--metric {metric}: give a built-in metric or your own module:function, followed by :minimize if lower "
            f"values are better"
        )
    return f"{module}:{function}", direction


def permit(metrics: Iterable[str]) -> None:
    """Allow this process and its child processes to import the user-defined functions among `metrics`."""
    known = [name for name in os.environ.get(PERMITTED, "").split(",") if name]
    own = [parsed(metric)[0] for metric in metrics if is_own(metric)]
    if own:
        os.environ[PERMITTED] = ",".join(dict.fromkeys([*known, *own]))


def why_not_permitted(name: str) -> str:
    """A sentence with the remedy if the user of this process has not permitted the function, else ""."""
    if name in os.environ.get(PERMITTED, "").split(","):
        return ""
    return (
        f"the study is judged by {name}, a user-defined function: give --metric {name} to the command that runs it, "
        f"which then imports it from the current folder"
    )


def own_metric(name: str) -> Any:
    """The function `name`, imported from the current folder or an installed package.

    Raises UsageError if it is not permitted, can't be imported or is not callable.
    """
    reason = why_not_permitted(name)
    if reason:
        raise UsageError(reason)
    import sys

    module, _, function = name.partition(":")
    here = str(Path.cwd())
    is_added = here not in sys.path
    if is_added:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise UsageError(
            f"--metric {name}: it can't be imported ({type(error).__name__}: {error}); name a function of a module in "
            f"the current folder"
        ) from error
    finally:
        if is_added:
            sys.path.remove(here)
    if not callable(found):
        raise UsageError(
            f"--metric {name}: it is a {type(found).__name__}; name a function of outputs and labels"
        )
    return found
