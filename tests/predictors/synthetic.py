"""A device profile made by hand: every operator setting takes what a simple law says."""

from predictors.device import DeviceProfile, NetworkRow
from predictors.network_bench import REFERENCE
from predictors.operator_grid import operator_row, settings
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

WORKLOAD = Workload()
SLOT_MS = {
    "mixer": 1.0,
    "ffn": 0.5,
    "norm": 0.0625,
    "stem": 2.0,
    "position": 4.0,
    "head": 8.0,
    "transition": 16.0,
}


def row(subject, value, reference=1.0):
    return Measurement(
        subject,
        "latency",
        value,
        "ms",
        WORKLOAD,
        "a device",
        "eager",
        "by hand",
        "a software",
        "today",
        samples=9,
        reference=reference,
    )


def network(space, arch, ms):
    return NetworkRow(space.name, arch, row(arch.id, ms))


def slot_ms(work, setting):
    return SLOT_MS[setting.slot]


def roofline_ms(work, setting):
    """A launch, then a million multiply-adds and a million bytes a millisecond."""
    return 0.01 + work.flops / 2e6 + work.bytes / 1e6


def profile(found, law=slot_ms, device="a device", networks=()):
    """The profile of these settings."""
    rows = {s: operator_row(s, WORKLOAD) for s in found}
    return DeviceProfile(
        device=device,
        software="a software",
        threads=1,
        workload=WORKLOAD,
        reference_id=REFERENCE.id,
        reference_ms=1.0,
        measured_at="today",
        operators=tuple(row(s.key, law(work, s)) for s, work in rows.items()),
        networks=tuple(networks),
        work={s.key: (work.flops, work.bytes) for s, work in rows.items()},
    )


def space_profile(space, law=slot_ms, **more):
    return profile(settings(space), law, **more)
