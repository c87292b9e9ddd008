"""The page's modules as one script."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nas.presentation.scripts import STATIC, joined

TOP_LEVEL = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


@pytest.mark.parametrize("entry", ["main.js", "offline.js"])
def test_no_name_stands_for_two_things_and_none_is_missing(entry: str) -> None:
    script = joined(entry)
    names = Counter(TOP_LEVEL.findall(script))
    assert [name for name, count in names.items() if count > 1] == []
    assert "import " not in re.sub(r"//.*|/\*.*?\*/", "", script)
    own = STATIC.joinpath(entry).read_text(encoding="utf-8")
    asked = {name.strip() for line in re.findall(r"import \{([^}]*)\}", own) for name in line.split(",")}
    assert asked <= set(names)
