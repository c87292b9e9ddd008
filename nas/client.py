"""A Python client of the service, with functions like `nas.search`.

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
PASSING = (429, 502, 503, 504)  # statuses of temporary failures of a server or proxy
ENDED = (Status.FINISHED, Status.STOPPED, Status.PAUSED, Status.FAILED)


def connect(url: str, token: str = "") -> Client:
    """A client of the service at `url`, which may contain the `token`.

    Raises UnreachableService if nothing answers, and UsageError if it is no `nas serve` or refuses the token.
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
    """A client of a service, made by `connect`: `url` is its address, `token` may be "" if the address contains it.

    Every method returns its result or raises a NasError with one sentence. Answers 429 (too many requests), and
    interruptions of the event stream, are retried for PATIENCE_SECONDS.
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
        """Close the connection; the client can't be used afterwards. Raises nothing."""
        self._http.close()

    @python_method(ServiceSearch)
    def search(self, request: ServiceSearch) -> Result:
        """Queue a study for the service's workers, wait for its end and return its result; Ctrl-C leaves it running.

        Options that are not given take the values of the space's recipe. Raises UsageError with the service's message
        if it refuses, and UnreachableService if it does not answer.
        """
        asked = {"name": request.study or request.space} | _body(request)
        made = self.call("POST", "studies", asked)
        return self._follow(made["name"], request.on_event)

    @python_method(ServiceResume)
    def resume(self, request: ServiceResume) -> Result:
        """Let workers resume a study, with `trials` added to its maximum; wait for its end and return its result.

        Raises UsageError with the service's message if it refuses, and UnreachableService if it does not answer.
        """
        asked = {"action": Control.RUN} | _body(request)
        self.call("PATCH", f"studies/{quote(request.study, safe='')}", asked)
        return self._follow(request.study, request.on_event)

    def read(self, study: str) -> Result:
        """The current result of the study named `study`; only the trials of the front have their architecture.

        Raises UsageError for an unknown study, and UnreachableService if the service does not answer.
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
        """Let the service extract a network, and unpack its folder to `out`; returns the folder's path.

        Raises UsageError if no network fits, the extraction fails or `out` exists already, and UnreachableService if
        the service does not answer.
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
        """Send `method` to `address` below /api/v1/, with `body` as JSON; returns the response's JSON.

        Raises UsageError with the server's message if it refuses, and UnreachableService if it does not answer.
        """
        try:
            return self._send(method, address, body).json()
        except ValueError:
            raise UsageError(f"{self.url} is no `nas serve`: its answer to {address} is not JSON") from None

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
        raise UsageError(f"{self.url} was restarted and lost the extraction; request it again")

    def _follow(self, study: str, on_event: Callable[[dict[str, Any]], None] | None) -> Result:
        """Follow a study until it has ended; returns its result."""
        for described in self._studies(study):
            if on_event is not None:
                on_event(described)
            if described["state"] in ENDED:
                break
        return self.read(study)

    def _studies(self, study: str) -> Generator[dict[str, Any], None, None]:
        """Yields the study whenever it has changed, across interruptions of the connection and restarts of the server.

        Raises UsageError if the server refuses, and UnreachableService if nothing arrived for PATIENCE_SECONDS.
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
        """Yields for each event or heartbeat the study, or None if it is about something else."""
        if response.status_code != 200:
            response.read()
            self._check(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise UsageError(f"{self.url} is no `nas serve`: its answer is not an event stream")
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
            raise UsageError(f"{self.url} is no `nas serve`: its events are not JSON") from None
        return found

    def _check(self, response: httpx.Response) -> None:
        if response.is_redirect:
            raise UsageError(f"{self.url} redirects to {response.headers['location']}: give that address")
        if not response.is_success:
            raise UsageError(f"{self.url} refused: {_detail(response)}")

    def _unreachable(self, reason: object) -> UnreachableService:
        return UnreachableService(f"{self.url} does not answer ({reason})")


class UnreachableService(NasError):
    """The service does not answer."""


def _body(request: Request) -> dict[str, Any]:
    """The given options, by the service's names of fields."""
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
    """(address without query, token), where the token may come from the query. Raises UsageError if invalid."""
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
            "nas.connect: the address contains another token than the argument; give only one of them"
        )
    token = token or given
    if not token.isascii() or not token.isprintable():
        raise UsageError("nas.connect: a token has only letters, digits, dashes and underscores")
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
    """Unpack the archive's single folder as `target`. Raises UsageError for names that lead outside of it."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(packed))
    except zipfile.BadZipFile:
        raise UsageError("the service sent no zip file; request the extraction again") from None
    with archive:
        for entry in archive.infolist():
            parts = Path(entry.filename).parts[1:]
            if entry.is_dir() or not parts:
                continue
            if ".." in parts or Path(entry.filename).is_absolute():
                raise UsageError(
                    f"the archive has the entry {entry.filename!r}, which leads outside of its folder"
                )
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))
