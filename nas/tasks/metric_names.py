"""Names of metrics: built-in ones, and functions of the user's own. Loads no torch.

    module:function             the larger its value the better
    module:function:minimize    the smaller the better

A function is code. It is imported only in a process whose user has named it there, and in the processes that this one
starts: a study that came from somebody else may name what it likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.errors import UsageError

PERMITTED = "NAS_METRIC"  # environment of the processes that may import: names with commas between them
DIRECTIONS = ("maximize", "minimize")


def is_own(name: str) -> bool:
    return ":" in name


def parsed(metric: str) -> tuple[str, str]:
    """(module:function, direction). Raises UsageError for what names no function."""
    module, _, rest = metric.partition(":")
    function, _, direction = rest.partition(":")
    direction = direction or DIRECTIONS[0]
    is_path = all(part.isidentifier() for part in (*module.split("."), function))
    if not is_path or direction not in DIRECTIONS:
        raise UsageError(
            f"--metric {metric}: give a built-in metric, or module:function of your own, with :minimize behind it "
            f"where less is better"
        )
    return f"{module}:{function}", direction


def permit(metrics: Iterable[str]) -> None:
    """Let this process, and those that it starts, import the functions that its user has named."""
    known = [name for name in os.environ.get(PERMITTED, "").split(",") if name]
    own = [parsed(metric)[0] for metric in metrics if is_own(metric)]
    if own:
        os.environ[PERMITTED] = ",".join(dict.fromkeys([*known, *own]))


def why_not_permitted(name: str) -> str:
    """A sentence where the user of this process has not named the function, else ""."""
    if name in os.environ.get(PERMITTED, "").split(","):
        return ""
    return (
        f"the study is judged by {name}, a function of the user's: give --metric {name} where it runs, to have it "
        f"imported from the current folder"
    )


def own_metric(name: str) -> Any:
    """The function, from the current folder or an installed package. Raises UsageError where it is not permitted, and
    for a name that stands for none."""
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
    except Exception as error:  # whatever the module does when it is imported
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
