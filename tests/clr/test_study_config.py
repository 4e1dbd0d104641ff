"""Studies that make no sense are refused with the remedy."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from clr.study_config import Arm, StudyConfig


def refusal(**document: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        StudyConfig.model_validate({"seeds": [0, 1, 2], **document})
    return str(refused.value)


def test_everything_but_the_seeds_has_a_default() -> None:
    config = StudyConfig.model_validate({"seeds": [0, 1, 2]})
    assert config.seeds == (0, 1, 2)
    assert config.arms == tuple(Arm)
    assert (config.max_lr, config.restart_lr, config.min_lr, config.epochs, config.cycles) == (0.1, None, 0.0, 20, 5)
    assert StudyConfig.model_validate_json(config.model_dump_json()) == config


def test_a_study_without_seeds_is_refused() -> None:
    with pytest.raises(ValidationError, match="seeds\n  Field required"):
        StudyConfig.model_validate({})
    assert "seeds must name at least one seed, got none: give for example [0, 1, 2]" in refusal(seeds=[])


def test_repeated_seeds_are_refused() -> None:
    assert "got 3 more than once: a seed that is trained twice gives the same network twice" in refusal(seeds=[3, 4, 3])


def test_an_unknown_arm_is_answered_with_the_nearest_one() -> None:
    assert "unknown arm 'no_cycles' (did you mean 'no_cycle'?): take some of snapshot_ensemble, auto" in refusal(arms=["no_cycles"])


def test_repeated_and_missing_arms_are_refused() -> None:
    assert "arms must differ from each other, got step more than once" in refusal(arms=["step", "step"])
    assert "arms must name at least one arm, got none" in refusal(arms=[])


@pytest.mark.parametrize("cycles", [1, 21])
def test_an_ensemble_has_two_to_twenty_members(cycles: int) -> None:
    assert "cycles\n  Input should be" in refusal(cycles=cycles)


def test_rates_must_be_above_the_minimum() -> None:
    assert "max_lr must be > min_lr (0.1), got 0.1" in refusal(min_lr=0.1)
    assert "restart_lr must be > min_lr (0.05), got 0.01" in refusal(min_lr=0.05, restart_lr=0.01)
    assert "min_lr must be < 1 where max_lr is measured, got 1" in refusal(min_lr=1.0, max_lr="auto")


def test_a_restart_rate_that_no_arm_uses_is_refused() -> None:
    assert "add one, or leave restart_lr out" in refusal(restart_lr=0.2, arms=["cosine", "step"])
    assert StudyConfig.model_validate({"seeds": [0], "restart_lr": 0.2, "arms": ["single_cycle"]}).restart_lr == 0.2


def test_the_seed_of_a_run_is_no_field_of_a_study() -> None:
    assert "seed\n  Extra inputs are not permitted" in refusal(seed=0)


def test_a_study_is_laid_out_without_torch() -> None:
    code = (
        "import sys; from clr.study_config import StudyConfig; from clr.studies import plan_study;"
        "plan_study(StudyConfig(seeds=(0,), arms=('cosine',))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_lengths_and_rates_that_no_arm_uses_are_refused() -> None:
    assert "cycles (7) means nothing here, since arms has only cosine: add an arm with cycles" in refusal(cycles=7, arms=["cosine"])
    assert "min_lr (0.05) means nothing here, since arms has only fixed: add an arm of cosines" in refusal(min_lr=0.05, arms=["fixed"])
    assert StudyConfig.model_validate({"seeds": [0], "cycles": 7, "min_lr": 0.05, "arms": ["fixed", "independent"]}).cycles == 7


def test_more_seeds_than_a_study_can_have_are_refused_in_words() -> None:
    assert "seeds must name at most 20 seeds, got 21: leave some out, or split the study" in refusal(seeds=list(range(21)))
