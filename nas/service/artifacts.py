"""Endpoints for files outside the database: extracting a network of a study, its model card, its download.

An artifact is addressed by its kind and key in the database; neither becomes part of a file path.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse

from nas.home import home
from nas.service.answers import of_fields
from nas.service.bodies import NewExtraction, has_weights
from nas.service.studies import OfStudy, Reader, Runner, Stored
from nas.workers.child import Child
from studies.records import JUDGED, Artifact, Study, Trial
from studies.store import Store

router = APIRouter(tags=["artifacts"])
KIND = "extraction"
MAX_WAITING = 16


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class _Job:
    trial: int
    state: JobState = JobState.WAITING
    error: str = ""


class Extractions:
    """Runs extractions one at a time, since each is timed on this machine; results are artifacts in the database."""

    def __init__(self, store: Store, url: str) -> None:
        self._store, self._url = store, url
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1)
        self._child: Child | None = None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if (child := self._child) is not None:
            child.interrupt()

    def begin(self, study: Study, trial: Trial, asked: dict[str, Any]) -> str:
        """Queue the extraction of a trial with options `asked`; returns the key of its artifact.

        An extraction that is queued or done already is not repeated. Raises HTTPException 503 if too many wait.
        """
        key = key_of(study, trial, asked)
        with self._lock:
            job = self._jobs.get(key)
            going = job is not None and job.state in (JobState.WAITING, JobState.RUNNING)
            if going or ((found := self._store.artifact(KIND, key)) and FilePath(found.path).is_file()):
                return key
            if sum(j.state == JobState.WAITING for j in self._jobs.values()) >= MAX_WAITING:
                raise HTTPException(
                    503, f"{MAX_WAITING} extractions wait; try again later", {"Retry-After": "60"}
                )
            self._jobs[key] = job = _Job(trial.number)
        self._pool.submit(self._run, study, key, job, asked)
        return key

    def of(self, study: Study) -> list[dict[str, Any]]:
        """The study's extractions, sorted by trial: those since the server's start and those in the database."""
        prefix = _prefix(study)
        done = {a.key: a for a in self._store.artifacts() if a.kind == KIND and a.key.startswith(prefix)}
        rows = {
            key: {"trial": job.trial, "key": key, "state": job.state, "error": job.error}
            for key, job in list(self._jobs.items())
            if key.startswith(prefix)
        }
        for key, artifact in done.items():
            trial = int(key.removeprefix(prefix).split("-")[0])
            rows[key] = {
                "trial": trial,
                "key": key,
                "state": JobState.DONE,
                "error": "",
                "size_bytes": artifact.size_bytes,
            }
        return sorted(rows.values(), key=lambda row: row["trial"])

    def _run(self, study: Study, key: str, job: _Job, asked: dict[str, Any]) -> None:
        job.state = JobState.RUNNING
        target = home() / "extractions" / f"{key}.zip"
        arguments = [study.name, str(job.trial), str(target), json.dumps(asked)]
        with closing(Child("nas.service.extract_child", arguments, {"NAS_DB": self._url})) as child:
            self._child = child
            if child.wait() != 0:
                error = child.reason()
            else:
                error = json.loads(child.output().strip().splitlines()[-1]).get("error", "")
        self._child = None
        if error:
            job.state, job.error = JobState.FAILED, of_fields(error)
            return
        made = datetime.now(UTC).isoformat(timespec="seconds")
        self._store.add_artifact(Artifact(KIND, key, str(target), target.stat().st_size, made))
        job.state = JobState.DONE


def key_of(study: Study, trial: Trial, asked: dict[str, Any]) -> str:
    more = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8] if asked else ""
    return "-".join(filter(None, (f"{_prefix(study)}{trial.number}", trial.arch_id, more)))


def _prefix(study: Study) -> str:
    """A prefix of keys with the study's id and time, since a database may reuse the id of a deleted study."""
    return f"{study.id}-{re.sub('[^0-9]', '', study.created_at)}-"


def _jobs(request: Request) -> Extractions:
    jobs: Extractions = request.app.state.extractions
    return jobs


Jobs = Annotated[Extractions, Depends(_jobs)]


@router.get("/studies/{name}/extractions")
def extractions(scope: Reader, view: OfStudy, jobs: Jobs) -> list[dict[str, Any]]:
    return jobs.of(view.study)


@router.post("/studies/{name}/extractions", status_code=202)
def extract(scope: Runner, view: OfStudy, jobs: Jobs, body: NewExtraction) -> dict[str, Any]:
    """Queue the extraction of a trial's network; the result is an artifact of kind extraction.

    409 for a trial that was not evaluated in full, or a study without weights; 503 if too many extractions wait.
    """
    trial = view.finished.get(body.trial)
    if trial is None or trial.state not in JUDGED:
        raise HTTPException(
            409,
            f"trial {body.trial} of study {view.study.name!r} was not judged in full; choose another trial",
        )
    if not has_weights(view.study):
        raise HTTPException(
            409,
            f"study {view.study.name!r} has no weights to extract (its quality is {view.study.quality})",
        )
    asked = body.model_dump(exclude={"trial"}, exclude_none=True)
    return {"kind": KIND, "key": jobs.begin(view.study, trial, asked)}


@router.get("/artifacts")
def artifacts(scope: Reader, store: Stored) -> list[dict[str, Any]]:
    shown = ("kind", "key", "size_bytes", "created_at")
    return [{n: getattr(a, n) for n in shown} for a in store.artifacts()]


def _file(
    store: Stored, kind: Annotated[str, Path(max_length=40)], key: Annotated[str, Path(max_length=200)]
) -> FilePath:
    """The file of an artifact. 404 if it is unknown, 409 if its kind can't be downloaded, 410 if it was deleted."""
    known = kind.isprintable() and key.isprintable()
    found = store.artifact(kind, key) if known else None
    if found is None:
        raise HTTPException(404, "no such artifact; GET /api/v1/artifacts lists them")
    if kind != KIND:
        raise HTTPException(409, f"artifacts of kind {kind} can't be downloaded; extractions can")
    if not FilePath(found.path).is_file():
        raise HTTPException(410, "the file was deleted from this machine; extract the network again")
    return FilePath(found.path)


OfArtifact = Annotated[FilePath, Depends(_file)]


@router.get("/artifacts/{kind}/{key}/download", response_class=Response)
def download(scope: Reader, file: OfArtifact) -> FileResponse:
    """The extracted folder as a zip file; its run.py only needs torch."""
    name = re.sub(r"[^\w.-]", "-", file.name)
    return FileResponse(file, media_type="application/zip", filename=f"network-{name}")


@router.get("/artifacts/{kind}/{key}/card", response_class=PlainTextResponse)
def card(scope: Reader, file: OfArtifact) -> PlainTextResponse:
    """The network's model card in Markdown."""
    with zipfile.ZipFile(file) as packed:
        name = next(n for n in packed.namelist() if n.count("/") == 1 and n.endswith("/README.md"))
        return PlainTextResponse(packed.read(name), media_type="text/markdown; charset=utf-8")
