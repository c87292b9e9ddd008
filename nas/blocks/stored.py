"""The table of block scores of a study's supernet, made at its first use and then kept as an artifact."""

from __future__ import annotations

from datetime import UTC, datetime

from nas.blocks.choose import Costs
from nas.blocks.library import FILE, Library, build_library, library_key, read_library, write_library
from nas.extraction import Parent
from nas.home import home
from nas.setup.preparation import OnStep, artifact_folder
from nas.training.sandwich import Sandwich
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable
from searchspace.spec.space import SpaceSpec
from studies.records import Artifact

KIND = "block_table"


def library_of(parent: Parent, on_step: OnStep) -> Library:
    """The table for the largest network of the study's space; if new, it is stored below NAS_HOME and recorded."""
    space = SpaceSpec.from_json(parent.study.space)
    largest = Sandwich(space, 0, 0).largest
    key = library_key(parent.study.supernet, largest, space, parent.recipe.batch_size)
    folder = home() / f"{KIND}s" / key
    if not (folder / FILE).is_file():
        write_library(build_library(parent.judged, space, largest, on_step), folder)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    size = (folder / FILE).stat().st_size
    parent.store.add_artifact(Artifact(KIND, key, str(folder), size, now))
    return read_library(folder)


def costs_of(parent: Parent) -> Costs:
    """Costs as the study predicts them, with latency on the device of its profile if it has one."""
    table = None
    if parent.study.profile:
        profile = DeviceProfile.load(artifact_folder(parent.store, "profile", parent.study.profile))
        table = OperatorTable.of_profile(profile, parent.study.space["name"])
    return Costs(parent.recipe.workload, table)
