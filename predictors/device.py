"""Names of devices, and device profiles: tables measured on one device with one software and workload.

A profile is a folder of text files. profile.toml records where the numbers come from; operators.csv has one row per
measured operator setting with its FLOPs and bytes; networks.csv has one row per whole network that calibrates the sum
of operators; failures.csv lists what could not be run. Ratios are multiples of the reference network's latency.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from predictors import cuda, runtimes
from predictors.runtimes import EAGER
from searchspace.kernels import dispatch
from searchspace.spec.arch import ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

FORMAT = 2
SHIPPED = Path(__file__).parent / "devices"
COLUMNS = ("subject", "ratio", "ratio_p10", "ratio_p90", "samples", "measured_at", "implementation", "method")
WORK = ("flops", "bytes")


@dataclass(frozen=True)
class NetworkRow:
    """A measured network and the space it was sampled from."""

    space: str
    arch: ArchSpec
    measurement: Measurement


@dataclass(frozen=True)
class DeviceProfile:
    """Measured operators and networks of one device; `reference_ms` is the nominal latency of network `reference_id`.

    All values are stated relative to that latency. `work` maps each measured setting to (FLOPs, bytes), `failures` each
    setting that could not be run to the reason. A profile `adapted_from` another one has the operators of that profile,
    which were measured with `source_workload`.
    """

    device: str
    software: str
    threads: int
    workload: Workload
    reference_id: str
    reference_ms: float
    measured_at: str
    runtime: str = EAGER
    adapted_from: str = ""
    source_workload: Workload | None = None
    operators: tuple[Measurement, ...] = ()
    networks: tuple[NetworkRow, ...] = ()
    work: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_rows(
            folder / "operators.csv",
            (*COLUMNS, *WORK),
            (_to_row(m) | dict(zip(WORK, self.work[m.subject], strict=True)) for m in self.operators),
        )
        failures = ({"subject": key, "reason": reason} for key, reason in self.failures.items())
        _write_rows(folder / "failures.csv", ("subject", "reason"), failures)
        _write_rows(
            folder / "networks.csv",
            (*COLUMNS, "space", "arch"),
            (
                _to_row(n.measurement)
                | {"space": n.space, "arch": json.dumps(n.arch.to_json(), sort_keys=True)}
                for n in self.networks
            ),
        )
        # Last, because a folder without profile.toml is not a profile.
        partial = folder / "profile.partial"
        partial.write_text(_to_toml(self), encoding="utf-8")
        partial.replace(folder / "profile.toml")

    @classmethod
    def load(cls, folder: Path) -> DeviceProfile:
        """Read a profile folder. Raises ValueError where it holds no profile of the current format."""
        path = folder / "profile.toml"
        if not path.is_file():
            raise ValueError(f"{folder} is no device profile: it has no profile.toml")
        head = tomllib.loads(path.read_text(encoding="utf-8"))
        if head.pop("format", None) != FORMAT:
            raise ValueError(
                f"the device profile {folder} is not of format {FORMAT}: measure it again (`nas profile`)"
            )
        workload = Workload.from_json(head.pop("workload"))
        source = head.pop("source_workload", None)
        source_workload = None if source is None else Workload.from_json(source)
        bare = cls(**head, workload=workload, source_workload=source_workload)
        networks = tuple(
            NetworkRow(row["space"], ArchSpec.from_json(json.loads(row["arch"])), _from_row(row, bare))
            for row in _read_rows(folder / "networks.csv")
        )
        rows = _read_rows(folder / "operators.csv")
        return replace(
            bare,
            operators=tuple(_from_row(row, bare) for row in rows),
            networks=networks,
            work={row["subject"]: (float(row["flops"]), float(row["bytes"])) for row in rows},
            failures={row["subject"]: row["reason"] for row in _read_rows(folder / "failures.csv")},
        )

    def why_unfit(
        self, device: str, threads: int, workload: Workload, reference_id: str, runtime: str = EAGER
    ) -> str | None:
        """Return why the profile's numbers do not apply to a measurement here and now; None where they do."""
        wanted = {
            "device": (self.device, device_name(device, threads)),
            "runtime": (self.runtime, runtime),
            "software": (self.software, software(runtime)),
            "threads": (self.threads, threads),
            "workload": (self.workload, workload),
            "reference": (self.reference_id, reference_id),
        }
        for what, (has, wants) in wanted.items():
            if has != wants:
                return f"the profile was measured with {what} {has}, here it is {wants}"
        return None


@cache
def device_name(device: str, threads: int = 1) -> str:
    """Return the processor and number of threads, or the GPU. Raises ValueError for another kind of device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    if device != "cpu":
        raise ValueError(f"unknown device {device!r}; known: cpu, cuda")
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def software(runtime: str = EAGER) -> str:
    """Return the versions of all software that the numbers of a runtime depend on."""
    own = runtimes.software(runtime)
    used = cuda.software(dispatch.selected())
    return f"torch {torch.__version__}, python {platform.python_version()}{used}" + (
        f", {own}" if own else ""
    )


def profile_folder(
    root: Path, device: str, threads: int, workload: Workload, reference_id: str, runtime: str = EAGER
) -> Path:
    """Return the folder below `root` for the profile of this device, workload and software in the current format."""
    name = device_name(device, threads)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    identity = f"{FORMAT}/{name}/{software(runtime)}/{workload}/{reference_id}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    kind = workload.phase if runtime == EAGER else f"{runtime}-{workload.phase}"
    return root / f"{slug}-{kind}-{digest}"


def known_profiles(roots: Iterable[Path]) -> dict[Path, DeviceProfile]:
    """Return the profiles below `roots` by folder; profiles of another format are left out."""
    found = {}
    for root in roots:
        for head in sorted(root.glob("*/profile.toml")):
            if tomllib.loads(head.read_text(encoding="utf-8")).get("format") == FORMAT:
                found[head.parent] = DeviceProfile.load(head.parent)
    return found


def _to_toml(profile: DeviceProfile) -> str:
    """Relies on JSON strings and numbers being valid TOML."""
    head: dict[str, object] = {"format": FORMAT}
    head |= {
        n: getattr(profile, n)
        for n in profile.__dataclass_fields__
        if n not in ("workload", "source_workload", "operators", "networks", "work", "failures")
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in head.items()]
    for name in ("workload", "source_workload"):
        workload: Workload | None = getattr(profile, name)
        if workload is not None:
            lines += ["", f"[{name}]", *(f"{n} = {json.dumps(v)}" for n, v in asdict(workload).items())]
    return "\n".join(lines) + "\n"


def _to_row(m: Measurement) -> dict[str, object]:
    assert m.reference
    ratios = {"ratio": m.value, "ratio_p10": m.p10, "ratio_p90": m.p90}
    return {n: getattr(m, n) for n in COLUMNS if n not in ratios} | {
        n: "" if v is None else f"{v / m.reference:.6g}" for n, v in ratios.items()
    }


def _from_row(row: Mapping[str, str], profile: DeviceProfile) -> Measurement:
    def milliseconds(column: str) -> float | None:
        return float(row[column]) * profile.reference_ms if row[column] else None

    return Measurement(
        subject=row["subject"],
        quantity="latency",
        value=float(row["ratio"]) * profile.reference_ms,
        unit="ms",
        workload=profile.workload,
        device=profile.device,
        implementation=row["implementation"],
        method=row["method"],
        software=profile.software,
        measured_at=row["measured_at"],
        p10=milliseconds("ratio_p10"),
        p90=milliseconds("ratio_p90"),
        samples=int(row["samples"]),
        reference=profile.reference_ms,
    )


def _write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, object]]) -> None:
    """Write the file atomically: a killed run leaves the old file unchanged."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
