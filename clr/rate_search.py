"""``max_lr: "auto"``: a range test before the first step of a run, on networks of its own."""

from collections.abc import Generator
from dataclasses import dataclass

from pydantic import ValidationError

from clr.config import RangeTestConfig, RunConfig, TrainingConfig
from clr.datasets import Dataset
from clr.errors import RateNotFoundError
from clr.plans import run_plan
from clr.range_answer import RangeTestResult
from clr.range_test import progress, search
from clr.seeds import mix


@dataclass(frozen=True)
class RateSearch:
    """The range test has taken one more step; nothing of the run itself exists yet."""

    fraction: float


@dataclass(frozen=True)
class RateFound:
    """The range test is over: from here on the run has a number.

    Attributes:
        result: The curves, what was tried, and why.
        max_lr: What the run takes.
        epochs: What the search cost, in passes over the training rows; it comes on top of the run's own length.
        config: The run's, with the number in place of "auto".
    """

    result: RangeTestResult
    max_lr: float
    epochs: float
    config: TrainingConfig


def search_rate(
    config: TrainingConfig, dataset: Dataset, *, device: str = "cpu"
) -> Generator[RateSearch | RateFound, None, TrainingConfig]:
    """Searches, and returns the config with the rate that was found.

    Raises:
        RangeTestError: The data leave nothing to sweep over.
        RateNotFoundError: The test suggests no rate, or one that the schedule cannot take.
    """
    if config.schedule.max_lr != "auto":
        raise RateNotFoundError(f"max_lr {config.schedule.max_lr} names a job, which only the service can look up")
    test = search_config(config)
    steps_per_epoch = run_plan(config, dataset).steps_per_epoch
    steps = search(test, dataset, device=device)
    fraction = 0.0
    while True:
        try:
            done, planned = progress(test, steps_per_epoch, next(steps))
        except StopIteration as end:
            result: RangeTestResult = end.value
            break
        fraction = max(fraction, min(1.0, done / planned))  # the test may take more steps than it planned
        yield RateSearch(fraction)
    if result.max_lr is None:
        raise RateNotFoundError(f"the range test found no max_lr: {result.refusal}")
    found = _with_rate(config, result.max_lr)
    yield RateFound(result, result.max_lr, result.num_steps / steps_per_epoch, found)
    return found


def search_config(config: TrainingConfig) -> RangeTestConfig:
    """The range test of a run: its own network, optimizer, batches and rows; other random numbers."""
    shared = {name: getattr(config, name) for name in RunConfig.model_fields}
    shared["split_seed"] = config.seed if config.split_seed is None else config.split_seed
    shared["seed"] = mix(config.seed, "range test") >> 1  # leaves room for the seeds of the repeats
    return RangeTestConfig(**shared)


def _with_rate(config: TrainingConfig, max_lr: float) -> TrainingConfig:
    document = config.model_dump()
    document["schedule"]["max_lr"] = max_lr
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        why = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
        raise RateNotFoundError(f"the range test suggests max_lr {max_lr:g}, which the schedule cannot take: {why}") from error
