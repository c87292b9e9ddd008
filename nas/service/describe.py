"""Child process, since it imports torch: prints the resolved built-in spaces, or the device profiles, as JSON.

python -m nas.service.describe spaces|devices
"""

from __future__ import annotations

import json
import sys
from typing import Any

from nas.request.recipe import load_recipe
from nas.workers import child


def spaces() -> list[dict[str, Any]]:
    from searchspace.load import builtin_spaces, load_space
    from searchspace.spec.genome import Encoding

    found = []
    for name in builtin_spaces():
        space = load_space(name)
        size = Encoding(space).size()
        recipe = load_recipe(name).to_json()
        found.append({"space": space.to_json(), "architectures": float(size), "recipe": recipe})
    return found


def devices() -> list[dict[str, Any]]:
    from nas.presentation.devices import device_rows

    return device_rows()


def main() -> None:
    child.end_with_parent()
    sys.stdout.write(json.dumps({"spaces": spaces, "devices": devices}[sys.argv[1]]()))


if __name__ == "__main__":
    main()
