"""Which training runs a study consists of, and what each arm takes from them. This module doesn't import torch.

Arms share runs where they can: the NoCycle controls are snapshots of the single runs, and the networks of the cosine arm are the
first of the independent ones.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from clr.config import SetupConfig, TrainingConfig
from clr.schedule_config import (
    CosineSchedule,
    ExponentialSchedule,
    FixedSchedule,
    ScheduleConfig,
    StepSchedule,
    WarmRestartsSchedule,
    as_fraction,
)
from clr.schedules import MIN_CYCLE_STEPS, ScheduleError
from clr.seeds import mix
from clr.study_config import Arm, StudyConfig

DIVIDING = frozenset({Arm.SNAPSHOT_ENSEMBLE, Arm.NO_CYCLE, Arm.NO_CYCLE_COSINE, Arm.SINGLE_CYCLE})
"""Arms that divide their budget into cycles."""


class Members(StrEnum):
    """Which snapshots of its runs an arm averages."""

    LAST = "last"
    """The last one of each run."""
    ALL = "all"
    """Every one of each run."""
    CHOSEN = "chosen"
    """The last ones of its run, as many as the run itself has chosen on validation rows."""


@dataclass(frozen=True)
class StudyRun:
    """One training run. The key is unique within the study, and the same each time the study is laid out."""

    key: str
    config: TrainingConfig


@dataclass(frozen=True)
class ArmPlan:
    """What one arm is made of.

    Attributes:
        arm: Which one.
        members: What is averaged.
        replicates: For each seed of the study, the keys of the runs that are averaged.
    """

    arm: Arm
    members: Members
    replicates: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class StudyPlan:
    """All of a study's runs, its arms, and the keys of its independent networks (empty without that arm)."""

    runs: tuple[StudyRun, ...]
    arms: tuple[ArmPlan, ...]
    pool: tuple[str, ...]


def plan_study(config: StudyConfig) -> StudyPlan:
    """Lays a study out: a pure function of its config."""
    runs: dict[str, StudyRun] = {}

    def run(key: str, seed: int, schedule: ScheduleConfig) -> str:
        if key not in runs:
            setup = {name: getattr(config, name) for name in SetupConfig.model_fields}
            split_seed = config.seeds[0] if config.split_seed is None else config.split_seed
            runs[key] = StudyRun(key, TrainingConfig(**setup | {"split_seed": split_seed, "seed": seed, "schedule": schedule}))
        return key

    pool_seeds = list(zip((f"cosine-{seed}" for seed in config.seeds), config.seeds, strict=True))
    if Arm.INDEPENDENT in config.arms:
        pool_seeds += _further_seeds(config)
    replicates: dict[Arm, list[tuple[str, ...]]] = {arm: [] for arm in config.arms}
    for index, seed in enumerate(config.seeds):
        for arm in config.arms:
            match arm:
                case Arm.SINGLE_CYCLE:
                    networks = range(config.cycles)
                    keys = [run(f"{arm}-{seed}-{j}", mix(seed, "single cycle", j), _schedule(config, arm)) for j in networks]
                case Arm.INDEPENDENT:
                    window = pool_seeds[index : index + config.cycles]
                    keys = [run(key, network_seed, _schedule(config, arm)) for key, network_seed in window]
                case _:
                    role = {Arm.NO_CYCLE: Arm.STEP, Arm.NO_CYCLE_COSINE: Arm.COSINE}.get(arm, arm)
                    keys = [run(f"{role}-{seed}", seed, _schedule(config, arm))]
            replicates[arm].append(tuple(keys))
    arms = tuple(ArmPlan(arm, _members(arm), tuple(replicates[arm])) for arm in config.arms)
    pool = tuple(key for key, _ in pool_seeds) if Arm.INDEPENDENT in config.arms else ()
    return StudyPlan(tuple(runs.values()), arms, pool)


def check_length(config: StudyConfig, steps_per_epoch: int) -> None:
    """Checks that the budget has room for its cycles.

    Raises:
        ScheduleError: It has not.
    """
    num_steps = math.floor(as_fraction(config.epochs) * steps_per_epoch)
    if not DIVIDING.isdisjoint(config.arms) and num_steps // config.cycles < MIN_CYCLE_STEPS:
        raise ScheduleError(
            f"each of the {config.cycles} cycles must have at least {MIN_CYCLE_STEPS} steps, got {num_steps} steps in all "
            f"({config.epochs:g} epochs of {steps_per_epoch}): lower cycles, train for more epochs, or lower batch_size"
        )


def _further_seeds(config: StudyConfig) -> list[tuple[str, int]]:
    """Keys and seeds of the M - 1 independent networks beyond those of the cosine arm."""
    return [(f"independent-{j}", mix(config.seeds[-1], "independent", j)) for j in range(1, config.cycles)]


def _members(arm: Arm) -> Members:
    match arm:
        case Arm.SNAPSHOT_ENSEMBLE | Arm.NO_CYCLE | Arm.NO_CYCLE_COSINE:
            return Members.ALL
        case Arm.AUTO:
            return Members.CHOSEN
        case Arm.FIXED | Arm.STEP | Arm.EXPONENTIAL | Arm.COSINE | Arm.SINGLE_CYCLE | Arm.INDEPENDENT:
            return Members.LAST
    assert_never(arm)


def _schedule(config: StudyConfig, arm: Arm) -> ScheduleConfig:
    """The schedule of an arm's runs. Runs that two arms share take a snapshot for each cycle, which changes nothing else."""
    common: dict[str, Any] = {"max_lr": config.max_lr, "epochs": config.epochs}
    match arm:
        case Arm.SNAPSHOT_ENSEMBLE:
            restarting = common | {"max_lr": config.max_lr if config.restart_lr is None else config.restart_lr}
            return WarmRestartsSchedule(**restarting, min_lr=config.min_lr, cycles=config.cycles)
        case Arm.AUTO:
            return WarmRestartsSchedule(**common, min_lr=config.min_lr, cycles="auto")
        case Arm.FIXED:
            return FixedSchedule(**common)
        case Arm.STEP | Arm.NO_CYCLE:
            return StepSchedule(**common, snapshots=config.cycles if Arm.NO_CYCLE in config.arms else 1)
        case Arm.EXPONENTIAL:
            return ExponentialSchedule(**common)
        case Arm.COSINE | Arm.NO_CYCLE_COSINE | Arm.INDEPENDENT:
            return CosineSchedule(**common, min_lr=config.min_lr, snapshots=config.cycles if Arm.NO_CYCLE_COSINE in config.arms else 1)
        case Arm.SINGLE_CYCLE:
            rate = config.max_lr if config.restart_lr is None else config.restart_lr
            return CosineSchedule(max_lr=rate, min_lr=config.min_lr, epochs=_share(config.epochs, config.cycles))
    assert_never(arm)


def _share(epochs: float, parts: int) -> float:
    """A ``parts``-th of ``epochs``, never rounded down: a third of three steps would be none."""
    exact = as_fraction(epochs) / parts
    nearest = float(exact)
    return nearest if as_fraction(nearest) >= exact else math.nextafter(nearest, math.inf)
