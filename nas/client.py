"""The service from Python, in the shape of `nas.search` and its siblings.

lab = nas.connect("http://127.0.0.1:8000/?token=nas_...")  # as `nas serve` prints it, or the token apart
result = lab.search(space="tiny-lm", objectives=["loss", "latency"], trials=200)
result = lab.resume("tiny-lm", trials=100)
lab.extract("tiny-lm", "first-knee", select=Selection(trial=12))
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from nas.api import Result
from nas.errors import NasError, UsageError
from nas.execution.status import Status
from nas.files import check_folder, replace_folder
from nas.request.functions import python_method
from nas.request.options import Request, options_of
from nas.request.schema import ServiceExtract, ServiceResume, ServiceSearch
from nas.selection import Selection
from studies.records import Control, Objective, Study, StudyState, Trial
from studies.rows import numbers_from_json

if TYPE_CHECKING:
    import httpx

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
PASSING = (429, 502, 503, 504)  # of a server or proxy that may answer later
ENDED = (Status.FINISHED, Status.STOPPED, Status.PAUSED, Status.FAILED)


def connect(url: str, token: str = "") -> Client:
    """A client of the service at `url`, an address that may hold the `token`.

    Raises UnreachableService where nothing answers, UsageError where it is no `nas serve` or refuses the token.
    """
    client = Client(url, token)
    try:
        about = client.call("GET", "about")
        if not isinstance(about, dict) or "scope" not in about:
            raise UsageError(f"{client.url} is no `nas serve`; give the address that it printed")
    except NasError:
        client.close()
        raise
    return client


class Client:
    """A service, as `connect` gives it: `url` is its address, `token` says who asks, "" where the address holds it.

    Every function ends in its result or in a NasError of one sentence. What may pass (a break of the connection, a
    server that starts again or has too much to do) is tried again for PATIENCE_SECONDS.
    """

    def __init__(self, url: str, token: str = "") -> None:
        try:
            import httpx
        except ModuleNotFoundError:
            raise UsageError(
                "nas.connect needs the package httpx: pip install 'efficient-transformer-nas[service]'"
            ) from None
        self.url, token = _address(url, token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=60.0)

    def close(self) -> None:
        """Give the connection back. Raises nothing; the client can't be used after it."""
        self._http.close()

    @python_method(ServiceSearch)
    def search(self, request: ServiceSearch) -> Result:
        """Queue a study for the service's workers and follow it to its end; Ctrl-C leaves it running there.

        What is not given comes from the recipe of the space. Raises UsageError with the service's sentence where it
        refuses, UnreachableService where it does not answer.
        """
        asked = {"name": request.study or request.space} | _body(request)
        made = self.call("POST", "studies", asked)
        return self._follow(made["name"], request.on_event)

    @python_method(ServiceResume)
    def resume(self, request: ServiceResume) -> Result:
        """Let workers go on with a study, with `trials` more than it was to have, and follow it to its end.

        Raises UsageError with the service's sentence where it refuses, UnreachableService where it does not answer.
        """
        asked = {"action": Control.RUN} | _body(request)
        self.call("PATCH", f"studies/{quote(request.study, safe='')}", asked)
        return self._follow(request.study, request.on_event)

    def read(self, study: str) -> Result:
        """The study named `study` as it stands; only the trials of the front have their architecture.

        Raises UsageError for one that the service does not know, UnreachableService where it does not answer.
        """
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
        reason = described["problem"] or described["state"]
        return Result(_study(described), trials, front, reason, columns["latencies"])

    @python_method(ServiceExtract)
    def extract(self, request: ServiceExtract) -> Path:
        """Have a network cut out by the service, and unpack its folder here; returns where it lies.

        Raises UsageError where no network fits, the extraction fails or `out` is there already, UnreachableService
        where the service does not answer.
        """
        study, target = request.study, Path(request.out)
        check_folder(target, request.overwrite)
        number = (request.select or Selection()).of(self.read(study)).number
        address = f"studies/{quote(study, safe='')}/extractions"
        key = self.call("POST", address, {"trial": number} | _body(request))["key"]
        while (going := self._extraction(address, key))["state"] != "done":
            if going["state"] == "failed":
                raise UsageError(f"trial {number} of study {study!r} can't be extracted: {going['error']}")
            time.sleep(POLL_SECONDS)
        packed = self._send("GET", f"artifacts/extraction/{quote(key, safe='')}/download").content
        with replace_folder(target, request.overwrite) as folder:
            _unpack(packed, folder)
        return target

    def call(self, method: str, address: str, body: dict[str, Any] | None = None) -> Any:
        """One request of the API: `method`, `address` behind /api/v1/, and `body` as JSON; returns the answer's JSON.

        Raises UsageError with the server's sentence where it refuses, UnreachableService where it does not answer.
        """
        try:
            return self._send(method, address, body).json()
        except ValueError:
            raise UsageError(f"{self.url} is no `nas serve`: it answers {address} with no JSON") from None

    def _send(self, method: str, address: str, body: dict[str, Any] | None = None) -> httpx.Response:
        import httpx

        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                response = self._http.request(method, address, json=body)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
            wait = _seconds_to_wait(response)
            if response.status_code != 429 or time.monotonic() + wait > until:
                self._check(response)
                return response
            time.sleep(wait)

    def _extraction(self, address: str, key: str) -> dict[str, Any]:
        for row in self.call("GET", address):
            if row["key"] == key:
                found: dict[str, Any] = row
                return found
        raise UsageError(
            f"{self.url} was started again and knows no more of the extraction; ask for it again"
        )

    def _follow(self, study: str, on_event: Callable[[dict[str, Any]], None] | None) -> Result:
        """Until the study has ended."""
        for described in self._studies(study):
            if on_event is not None:
                on_event(described)
            if described["state"] in ENDED:
                break
        return self.read(study)

    def _studies(self, study: str) -> Generator[dict[str, Any], None, None]:
        """The study whenever it has changed, across breaks of the connection and restarts of the server.

        Raises UsageError where the server refuses, UnreachableService where nothing came for PATIENCE_SECONDS.
        """
        import httpx

        address, last = f"studies/{quote(study, safe='')}/events", time.monotonic()
        while True:
            wait, reason = POLL_SECONDS, "the stream ended"
            try:
                with self._http.stream("GET", address) as response:
                    if response.status_code in PASSING:
                        response.read()
                        wait, reason = _seconds_to_wait(response), _detail(response)
                    else:
                        for described in self._events(response):
                            last = time.monotonic()
                            if described is not None:
                                yield described
            except httpx.HTTPError as error:
                reason = str(error)
            if time.monotonic() + wait > last + PATIENCE_SECONDS:
                raise self._unreachable(reason)
            time.sleep(wait)

    def _events(self, response: httpx.Response) -> Iterator[dict[str, Any] | None]:
        """For each sign of life the study, or None where it says something else."""
        if response.status_code != 200:
            response.read()
            self._check(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise UsageError(f"{self.url} is no `nas serve`: it answers with no stream of events")
        event = ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            event = value if name == "event" else event
            if name == "data" or line.startswith(":"):
                yield self._parsed(value) if name == "data" and event == "study" else None

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise UsageError(f"{self.url} is no `nas serve`: its stream holds no JSON") from None
        return found

    def _check(self, response: httpx.Response) -> None:
        if response.is_redirect:
            raise UsageError(f"{self.url} refers to {response.headers['location']}: give that address")
        if not response.is_success:
            raise UsageError(f"{self.url} refused: {_detail(response)}")

    def _unreachable(self, reason: object) -> UnreachableService:
        return UnreachableService(f"{self.url} does not answer ({reason})")


class UnreachableService(NasError):
    """The service does not answer."""


def _body(request: Request) -> dict[str, Any]:
    """What was given, by the names of the service."""
    declared = options_of(request)
    return {o.body: getattr(request, n) for n in request.given if (o := declared[n]).body}


def _study(data: Mapping[str, Any]) -> Study:
    names = {f.name for f in fields(Study)}
    known = {
        n: v for n, v in data.items() if n in names and n not in ("space", "objectives", "tags", "state")
    }
    return Study(
        **known,
        tags=tuple(data["tags"]),
        space={"name": data["space"]},
        objectives=tuple(Objective.from_json(o) for o in data["objectives"]),
        state=StudyState.QUEUED if data["state"] in (Status.QUEUED, Status.PREPARING) else data["state"],
    )


def _trial(data: Mapping[str, Any]) -> Trial:
    names = {f.name for f in fields(Trial)}
    known = {n: v for n, v in data.items() if n in names}
    for name in ("values", "violations"):
        known[name] = numbers_from_json(known[name])
    return Trial(**{**known, "parents": tuple(known["parents"])})


def _address(url: str, token: str) -> tuple[str, str]:
    """The address without what stands behind it, and the token, which may stand there."""
    try:
        parts = urlsplit(url.strip())
        (given,) = parse_qs(parts.query).get("token", [""])
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(f"nas.connect({url!r}): give an address such as http://127.0.0.1:8000")
    if given and token and given != token:
        raise UsageError(
            "nas.connect: the address holds another token than the one given beside it; give one of them"
        )
    token = token or given
    if not token.isascii() or not token.isprintable():
        raise UsageError("nas.connect: a token is made of letters, digits, dashes and underscores")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"), token


def _seconds_to_wait(response: httpx.Response) -> float:
    try:
        return max(POLL_SECONDS, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return POLL_SECONDS


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def _unpack(packed: bytes, target: Path) -> None:
    """The one folder that the archive holds, as `target`. Names that lead out of it are refused."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(packed))
    except zipfile.BadZipFile:
        raise UsageError("what was sent is no zip file; ask for the extraction again") from None
    with archive:
        for entry in archive.infolist():
            parts = Path(entry.filename).parts[1:]
            if entry.is_dir() or not parts:
                continue
            if ".." in parts or Path(entry.filename).is_absolute():
                raise UsageError(f"the archive holds {entry.filename!r}, which leads out of it")
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))
