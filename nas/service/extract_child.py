"""Child process, since it imports torch: extracts the network of one trial and packs its folder.

    NAS_DB=URL python -m nas.service.extract_child STUDY TRIAL ZIP OPTIONS

OPTIONS are those of `nas.request.schema.ServiceExtract` in JSON. Prints {} or, for an invalid request, {"error": ...}.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from nas.errors import NasError, StoreError
from nas.workers import child


def cut(study: str, trial: int, target: Path, asked: dict[str, Any]) -> None:
    from nas.extraction import Selection, extracted
    from nas.request.schema import ExtractRequest

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary) / f"trial-{trial}"
        which = {"study": study, "out": folder, "select": Selection(trial=trial)}
        extracted(ExtractRequest.of(asked | which))
        packed = shutil.make_archive(str(Path(temporary) / "packed"), "zip", temporary, folder.name)
        Path(packed).replace(target)


def main() -> None:
    child.end_with_parent()
    study, trial, target, asked = sys.argv[1:]
    try:
        cut(study, int(trial), Path(target), json.loads(asked))
        answer = {}
    except (NasError, StoreError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main()
