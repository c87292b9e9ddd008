"""Profiles as text: what is written is what is read, and what belongs elsewhere is refused."""

from dataclasses import replace

import pytest

from predictors.device import FORMAT, DeviceProfile, NetworkRow, device_name, profile_folder, software
from predictors.lookup import OperatorTable
from predictors.network_bench import REFERENCE, REFERENCE_WORKLOAD, measure_networks
from predictors.operator_grid import measure_settings, operator_row, settings
from predictors.profiling import checked_profile, random_models
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload

WORKLOAD = Workload(seq_len=16)


@pytest.fixture(scope="module")
def profile():
    space = load_space("tiny-lm")
    wanted = settings(space)
    operators, _ = measure_settings(wanted, WORKLOAD, samples=5, seconds=0.5, nominal_ms=1.25)
    work = {s.key: operator_row(s, WORKLOAD) for s in wanted}
    archs = {a.id: a for a in sample(Encoding(space), 5, 0, WORKLOAD)}
    networks, _ = measure_networks(random_models(tuple(archs.values())), WORKLOAD, nominal_ms=1.25, samples=5)
    return DeviceProfile(
        device=device_name("cpu", 1),
        software=software(),
        threads=1,
        workload=WORKLOAD,
        reference_id=REFERENCE.id,
        reference_ms=1.25,
        measured_at="2030-01-02T03:04:05+00:00",
        adapted_from="another device",
        source_workload=Workload(batch_size=2),
        work={key: (row.flops, row.bytes) for key, row in work.items()},
        failures={"mixer a, b": "out of memory, 'really'"},
        operators=tuple(replace(m, seed=None) for m in operators),
        networks=tuple(NetworkRow("tiny-lm", archs[m.subject], replace(m, seed=None)) for m in networks),
    )


def test_a_profile_is_read_as_it_was_written(profile, tmp_path):
    profile.save(tmp_path / "one")
    loaded = DeviceProfile.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    assert replace(loaded, operators=(), networks=()) == replace(profile, operators=(), networks=())
    assert [n.arch for n in loaded.networks] == [n.arch for n in profile.networks]
    pairs = [*zip(loaded.operators, profile.operators, strict=True)]
    pairs += [(a.measurement, b.measurement) for a, b in zip(loaded.networks, profile.networks, strict=True)]
    for read, written in pairs:
        assert read == written
    for file in ("profile.toml", "operators.csv", "networks.csv", "failures.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_loaded_profile_predicts_every_architecture_of_its_space(profile, tmp_path):
    profile.save(tmp_path)
    table = OperatorTable.of_profile(checked_profile(tmp_path, WORKLOAD, "cpu", 1), "tiny-lm")
    for arch in sample(Encoding(load_space("tiny-lm")), 20, 1, WORKLOAD):
        found = table.latency(arch, WORKLOAD)
        assert 0 < found.low_ms <= found.high_ms


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"software": "torch 1.0"}, "software torch 1.0, here it is torch 2"),
        ({"device": "an abacus"}, "device an abacus"),
        ({"reference_id": "0"}, "reference 0"),
        ({"workload": Workload(seq_len=32)}, "workload forward,b=1,t=32"),
    ],
)
def test_a_profile_of_something_else_is_refused(profile, tmp_path, change, reason):
    replace(profile, operators=(), networks=(), **change).save(tmp_path)
    with pytest.raises(ValueError, match=f"measured with {reason}"):
        checked_profile(tmp_path, WORKLOAD, "cpu", 1)


def test_another_number_of_threads_is_another_device(profile, tmp_path):
    profile.save(tmp_path)
    with pytest.raises(ValueError, match=r"1 thread, here it is .* 2 threads"):
        checked_profile(tmp_path, WORKLOAD, "cpu", 2)


def test_a_folder_that_is_no_profile_or_of_another_format_is_refused(profile, tmp_path):
    with pytest.raises(ValueError, match=r"it has no profile\.toml"):
        DeviceProfile.load(tmp_path)
    profile.save(tmp_path)
    path = tmp_path / "profile.toml"
    path.write_text(path.read_text().replace("format = 2", "format = 9"))
    with pytest.raises(ValueError, match="not of format 2"):
        DeviceProfile.load(tmp_path)


def test_each_device_threads_workload_and_reference_has_its_own_folder(tmp_path):
    base = ("cpu", 1, WORKLOAD, "r")
    others = [("cpu", 2, WORKLOAD, "r"), ("cpu", 1, REFERENCE_WORKLOAD, "r"), ("cpu", 1, WORKLOAD, "s")]
    folders = {profile_folder(tmp_path, *key) for key in [base, *others]}
    assert len(folders) == 4
    assert profile_folder(tmp_path, *base) in folders


def test_a_profile_of_another_format_has_another_folder_so_that_it_is_not_in_the_way(tmp_path, monkeypatch):
    before = profile_folder(tmp_path, "cpu", 1, WORKLOAD, "r")
    monkeypatch.setattr("predictors.device.FORMAT", FORMAT + 1)
    assert profile_folder(tmp_path, "cpu", 1, WORKLOAD, "r") != before


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="unknown device 'tpu'; known: cpu, cuda"):
        device_name("tpu")
