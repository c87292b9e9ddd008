"""What operators run by belongs to a study, and is refused where it cannot run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.errors import UsageError
from nas.request.recipe import load_recipe
from nas.setup.plan import check_kernels, named_space, plan, with_kernels
from studies.settings import Settings


def test_a_study_keeps_its_kernels_and_one_of_before_ran_by_torch() -> None:
    study = plan(named_space("tiny-lm"), load_recipe("tiny-lm"), device="cuda", kernels="auto")
    assert study.settings.kernels == "auto"
    data = study.settings.to_json()
    del data["kernels"]
    assert Settings.from_json(data).kernels == "torch"


@pytest.mark.parametrize("kernels", ["triton", "auto"])
def test_kernels_on_a_cpu_are_refused_with_the_option_and_what_would_do(kernels: str) -> None:
    with pytest.raises(UsageError, match=f"--kernels {kernels}: .*CUDA.*take torch"):
        check_kernels(kernels, "cpu")


def test_other_kernels_than_the_study_s_are_checked_for_its_device() -> None:
    study = plan(named_space("tiny-lm"), load_recipe("tiny-lm"))
    assert with_kernels(study, "") is study
    other = replace(study, settings=replace(study.settings, kernels="auto"))
    assert with_kernels(other, "torch").settings.kernels == "torch"
    with pytest.raises(UsageError, match="--kernels triton"):
        with_kernels(study, "triton")
