"""The service from Python, in the shape of `nas.search` and its siblings.

lab = nas.connect("http://host:8000", token="nas_...")
result = lab.search(space="tiny-lm", objectives=["loss", "latency"], trials=200)
result = lab.resume("tiny-lm", trials=100)
lab.extract("tiny-lm", "first-knee", select=Selection(trial=12))
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nas.api import Result
from nas.errors import NasError, UsageError
from nas.files import check_folder, replace_folder
from studies.records import Objective, Study, Trial
from studies.rows import numbers_from_json

if TYPE_CHECKING:
    import httpx

    from nas.extraction import Selection

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
ENDED = ("finished", "stopped", "paused", "failed")


def connect(url: str, token: str = "") -> Client:
    """A client of the service at `url`. Raises UsageError where none answers, or the token is refused."""
    client = Client(url, token)
    try:
        client.call("GET", "about")
    except NasError:
        client.close()
        raise
    return client


class Client:
    def __init__(self, url: str, token: str = "") -> None:
        try:
            import httpx
        except ModuleNotFoundError:
            raise UsageError(
                "nas.connect needs the package httpx: pip install 'efficient-transformer-nas[service]'"
            ) from None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=60.0)

    def close(self) -> None:
        self._http.close()

    def search(
        self,
        *,
        space: str,
        objectives: Sequence[str] | None = None,
        study: str = "",
        trials: int | None = None,
        minutes: float | None = None,
        seed: int | None = None,
        searcher: str | None = None,
        quality: str | None = None,
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        device: str = "cpu",
        keep: Mapping[str, Sequence[Any]] | None = None,
        training_steps: int | None = None,
        priority: int = 0,
        on_event: Callable[[dict[str, Any]], None] = lambda study: None,
    ) -> Result:
        """Queue a study for the service's workers and follow it to its end; Ctrl-C leaves it running there.

        `keep` narrows choices of the space by kind (mixer, ffn, norm, d_model, depth, placement), `training_steps` are
        those of the supernet. `on_event` is called with the study whenever it has changed.
        """
        given = {
            "name": study or space,
            "space": space,
            "objectives": list(objectives) if objectives is not None else None,
            "trials": trials,
            "minutes": minutes,
            "seed": seed,
            "searcher": searcher,
            "quality": quality,
            "bounds": dict(bounds or {}),
            "device": device,
            "keep": {kind: list(values) for kind, values in (keep or {}).items()},
            "training_steps": training_steps,
            "priority": priority,
        }
        made = self.call("POST", "studies", {n: v for n, v in given.items() if v is not None})
        return self._follow(made["name"], on_event)

    def resume(
        self, study: str, *, trials: int = 0, on_event: Callable[[dict[str, Any]], None] = lambda study: None
    ) -> Result:
        """Let workers go on with a study, with `trials` more than it was to have, and follow it to its end."""
        self.call("PATCH", f"studies/{quote(study, safe='')}", {"action": "run", "more_trials": trials})
        return self._follow(study, on_event)

    def read(self, study: str) -> Result:
        """A study as it stands; only the trials of the front have their architecture."""
        address = f"studies/{quote(study, safe='')}"
        described, columns = self.call("GET", address), self.call("GET", f"{address}/results")
        front = [_trial(t) for t in self.call("GET", f"{address}/front")]
        known = {t.number: t for t in front}
        names = list(columns["values"])
        trials = [
            known.get(number)
            or Trial(
                number, {}, "", state, {n: v for n in names if (v := columns["values"][n][i]) is not None}
            )
            for i, (number, state) in enumerate(zip(columns["number"], columns["state"], strict=True))
        ]
        reason = described["problem"] or described["status"]
        return Result(_study(described), trials, front, reason)

    def extract(self, study: str, out: str | Path, *, select: Selection | None = None) -> Path:
        """Have the selected network (by default the knee) cut out, and unpack its folder to `out`."""
        from studies.pareto import knee, losses

        target = Path(out)
        check_folder(target)
        result = self.read(study)
        if select is not None:
            number = select.of(result).number
        elif result.front:
            number = result.front[knee(losses(result.front, result.study.objectives))].number
        else:
            raise UsageError(f"study {study!r} has no complete trial to choose from")
        address = f"studies/{quote(study, safe='')}/extractions"
        key = self.call("POST", address, {"trial": number})["key"]
        while (state := next(e for e in self.call("GET", address) if e["key"] == key))["state"] != "done":
            if state["state"] == "failed":
                raise UsageError(f"trial {number} of study {study!r} can't be extracted: {state['error']}")
            time.sleep(POLL_SECONDS)
        packed = self._send("GET", f"artifacts/extraction/{quote(key, safe='')}/download").content
        with replace_folder(target) as folder:
            _unpack(packed, folder)
        return target

    def call(self, method: str, address: str, body: dict[str, Any] | None = None) -> Any:
        """One request of the API. Raises UsageError with the server's sentence where it refuses."""
        return self._send(method, address, body).json()

    def _send(self, method: str, address: str, body: dict[str, Any] | None = None) -> httpx.Response:
        import httpx

        try:
            response = self._http.request(method, address, json=body)
        except httpx.TransportError as error:
            raise UnreachableService(f"{self.url} does not answer ({error})") from None
        if response.status_code == 429 and (wait := response.headers.get("retry-after")):
            time.sleep(float(wait))
            return self._send(method, address, body)
        if response.is_error:
            raise UsageError(f"{self.url} refused: {_detail(response)}")
        return response

    def _follow(self, study: str, on_event: Callable[[dict[str, Any]], None]) -> Result:
        """Until the study has ended, across breaks of the connection of up to PATIENCE_SECONDS."""
        for described in self._studies(study):
            on_event(described)
            if described["status"] in ENDED:
                break
        return self.read(study)

    def _studies(self, study: str) -> Iterator[dict[str, Any]]:
        import httpx

        address, last = f"studies/{quote(study, safe='')}/events", time.monotonic()
        while True:
            try:
                with self._http.stream("GET", address) as response:
                    event = ""
                    for line in response.iter_lines():
                        last = time.monotonic()
                        name, _, value = line.partition(": ")
                        event = value if name == "event" else event
                        if name == "data" and event == "study":
                            yield json.loads(value)
            except httpx.TransportError as error:
                if time.monotonic() - last > PATIENCE_SECONDS:
                    raise UnreachableService(f"{self.url} does not answer ({error})") from None
            time.sleep(POLL_SECONDS)


class UnreachableService(NasError):
    """The service does not answer."""


def _study(data: Mapping[str, Any]) -> Study:
    names = {f.name for f in fields(Study)}
    known = {n: v for n, v in data.items() if n in names and n not in ("space", "objectives")}
    return Study(
        **known,
        space={"name": data["space"]},
        objectives=tuple(Objective.from_json(o) for o in data["objectives"]),
        state="queued" if data["status"] in ("queued", "preparing") else data["status"],
    )


def _trial(data: Mapping[str, Any]) -> Trial:
    names = {f.name for f in fields(Trial)}
    known = {n: v for n, v in data.items() if n in names}
    for name in ("values", "violations"):
        known[name] = numbers_from_json(known[name])
    return Trial(**{**known, "parents": tuple(known["parents"])})


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{' '.join(map(str, d['loc'][1:]))}: {d['msg']}" for d in detail)


def _unpack(packed: bytes, target: Path) -> None:
    """The one folder that the archive holds, as `target`. Names that lead out of it are refused."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for entry in archive.infolist():
            parts = Path(entry.filename).parts[1:]
            if entry.is_dir() or not parts:
                continue
            if ".." in parts or Path(entry.filename).is_absolute():
                raise UsageError(f"the archive holds {entry.filename!r}, which leads out of it")
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))
