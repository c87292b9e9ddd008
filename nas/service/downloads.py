"""Endpoints for downloads of a study: its trials as CSV, and the HTML report."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from nas.api import Result
from nas.presentation.html_report import report as as_html
from nas.service.analysis import worth_of
from nas.service.studies import OfStudy, Reader, Stored
from nas.service.views import View
from studies.export import FIELDS, table
from studies.store import Store

router = APIRouter(tags=["downloads"])
AT_ONCE = 500  # trials whose architectures are in memory at once


@router.get("/studies/{name}/trials.csv", response_class=Response)
def trials_csv(scope: Reader, view: OfStudy, store: Stored) -> StreamingResponse:
    """All trials in the CSV form of `nas export`: a column for each objective and each decision of the space."""
    headers = _named(view.study.name, "csv")
    return StreamingResponse(_lines(store, view), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/studies/{name}/report", response_class=Response)
def report(scope: Reader, view: OfStudy, store: Stored) -> Response:
    """The study as one HTML file, like that of `nas report`."""
    study, best = view.study, view.front
    by_number = {t.number: t for t in store.trials(study, numbers=[t.number for t in best])}
    measured = store.measurements(subjects=[t.arch_id for t in best])
    result = Result(
        study,
        [view.finished[n] for n in sorted(view.finished)],
        [by_number[t.number] for t in best],
        latencies=view.latencies,
    )
    found = worth_of(view, store)
    text = as_html(result, measured, found.sentence() if found else "")
    return Response(text, media_type="text/html; charset=utf-8", headers=_named(study.name, "html"))


def _lines(store: Store, view: View) -> Iterator[str]:
    numbers = sorted({*view.finished, *(t.number for t in view.unfinished)})
    is_first = True
    for start in range(0, len(numbers), AT_ONCE):
        rows = table(view.study, store.trials(view.study, numbers=numbers[start : start + AT_ONCE]))
        written = io.StringIO()
        writer = csv.DictWriter(written, list(rows[0]))
        if is_first:
            writer.writeheader()
        is_first = False
        writer.writerows(rows)
        yield written.getvalue()
    if is_first:
        yield ",".join(FIELDS) + "\r\n"


def _named(study: str, suffix: str) -> dict[str, str]:
    name = re.sub(r"[^\w.-]", "-", study, flags=re.ASCII).lstrip(".")
    return {"Content-Disposition": f'attachment; filename="{name or "study"}.{suffix}"'}
