"""A search for another device: latencies are predicted from a profile that was measured there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.errors import UsageError
from nas.home import home
from nas.request.recipe import Recipe
from nas.request.schema import AUTO
from nas.setup.preparation import record_artifact
from studies.records import Study
from studies.store import Store


def with_target(store: Store, study: Study, target: str) -> Study:
    """The planned study with the profile in folder `target`, or in the folder of that name under NAS_HOME/profiles.

    Its latencies are only predicted: networks are not timed on this device in place of the target. Raises UsageError
    for a profile that can't be read or does not suit the study.
    """
    from predictors.device import DeviceProfile

    folder = next(
        (f for f in (Path(target), home() / "profiles" / target) if (f / "profile.toml").is_file()), None
    )
    if folder is None:
        raise UsageError(
            f"--target {target}: no profile there nor in {home() / 'profiles'}; "
            f"name the folder that `nas profile` wrote on that device"
        )
    try:
        profile = DeviceProfile.load(folder)
    except (ValueError, KeyError) as error:
        raise UsageError(f"--target {target}: {error}") from error
    predicted = [o for o in study.objectives if o.source == "predicted"]
    if not predicted:
        raise UsageError(f"--target {target}: no objective depends on a device; add latency to --objectives")
    if predicted[0].workload != profile.workload:
        raise UsageError(
            f"--target {target}: it was measured for another workload; "
            f"ask for latency@{profile.workload}, or profile the device for {predicted[0].workload}"
        )
    asked = Recipe.from_json(study.settings.recipe).runtime
    if asked not in (AUTO, profile.runtime):
        raise UsageError(f"--runtime {asked}: the profile {target} is of {profile.runtime}; ask for that")
    goals = tuple(
        replace(o, device=profile.device, runtime=profile.runtime) if o.source == "predicted" else o
        for o in study.objectives
    )
    record_artifact(store, "profile", folder.name, folder.resolve())
    settings = replace(study.settings, target=profile.device)
    return replace(study, objectives=goals, profile=folder.name, settings=settings)
