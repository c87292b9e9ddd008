"""`nas report`."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path

from nas.api import default_db, read
from nas.cli.look import worth_of
from nas.files import check_file, replace_file
from nas.presentation.html_report import report as as_html
from studies.store import Store


def report(options: argparse.Namespace) -> int:
    db = options.db or default_db()
    result = read(options.study, db=db)
    path = Path(options.out or f"{result.study.name}.html")
    check_file(path, options.overwrite, db=db)
    with closing(Store(db)) as store:
        found = store.measurements(subjects=[t.arch_id for t in result.front])
    worth = worth_of(result, db)
    text = as_html(result, found, worth.sentence() if worth else "")
    replace_file(path, lambda new: new.write_text(text, encoding="utf-8"), options.overwrite, db=db)
    if options.json:
        print(json.dumps({"study": result.study.name, "out": str(path), "bytes": path.stat().st_size}))
    else:
        print(
            f"{path}: {len(result.trials)} trials, {path.stat().st_size / 1e6:.1f} MB, opens in any browser"
        )
    return 0
