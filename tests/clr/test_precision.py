"""What precision "auto" means: the rule, the check that may take bf16 back, and how a run keeps the answer."""

import math
from collections.abc import Callable, Iterator
from itertools import accumulate, chain

import numpy as np
import pytest
import torch

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.models import multiply_adds
from clr.plans import resolve
from clr.precision import CHECK_STEPS, MIN_RUN_STEPS, TIMED_STEPS, WARM_UP_STEPS, Precision, check_precision
from clr.training import PrecisionChosen, StepReport, train
from tests.clr.tiny import make_config, make_images

HAS_BF16 = bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ({"architecture": "mlp", "params": {"hidden": [256, 256]}}, 784 * 256 + 256 * 256 + 256 * 10),
        ({"architecture": "small_cnn", "params": {"width": 16}}, 9 * (784 * 16 + 196 * 16 * 32 + 49 * 32 * 64) + 640),
        (
            {"architecture": "resnet", "params": {"depth": 8, "width": 16}},
            9 * (784 * (16 + 2 * 256) + 196 * (512 + 1024) + 49 * (2048 + 4096)) + 640,
        ),
        (
            {"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}},
            784 * (9 * (16 + 2 * 256)) + 196 * (9 * (512 + 1024) + 512) + 49 * (9 * (2048 + 4096) + 2048) + 640,
        ),
    ],
)
def test_products_of_a_row_are_counted_layer_by_layer(model: dict[str, object], count: int) -> None:
    assert multiply_adds(make_config(model=model).model, (28, 28), 10) == count


def wide_config(**changes: object) -> TrainingConfig:
    """A run of 1000 steps with 2 * 8,392,704 products a mini-batch: just above the rule's bound, or with batches of 255 rows below."""
    schedule = {"type": "warm_restarts", "cycles": 1, "epochs": MIN_RUN_STEPS // 2}
    return make_config(**{"model": {"architecture": "mlp", "params": {"hidden": [488]}}, "batch_size": 256, "schedule": schedule} | changes)


@pytest.fixture(scope="module")
def wide_rows() -> Dataset:
    draws = np.random.default_rng(3)
    return Dataset.from_arrays(draws.normal(size=(600, 128)).astype(np.float32), np.arange(600) % 2)


@pytest.mark.skipif(not HAS_BF16, reason="this processor doesn't compute in bf16")
def test_bf16_is_taken_where_a_mini_batch_is_enough_work(wide_rows: Dataset) -> None:
    assert 252 * 488 * (128 + 2) < 16_000_000 < 256 * 488 * (128 + 2)
    assert resolve(wide_config(), wide_rows, "cpu").precision == "bf16"
    assert resolve(wide_config(batch_size=252), wide_rows, "cpu").precision == "fp32"
    assert resolve(wide_config(precision="fp32"), wide_rows, "cpu").precision == "fp32"
    assert resolve(make_config(), make_images(), "cpu").precision == "fp32"


def scripted_clock(*, fp32: float, bf16: float) -> Callable[[], float]:
    """Steps of the two precisions take so long, with a second between them: the clock is read before and after each."""
    turns = chain.from_iterable((fp32, bf16) if index % 2 == 0 else (bf16, fp32) for index in range(WARM_UP_STEPS + TIMED_STEPS))
    readings: Iterator[float] = accumulate(chain.from_iterable((1.0, seconds) for seconds in turns))
    return lambda: next(readings)


@pytest.mark.parametrize(
    ("seconds", "losses", "expected"),
    [
        ((3.0, 2.0), (1.0, 1.019), ("bf16", 1.5, pytest.approx(0.019))),
        ((2.0, 2.0), (1.0, 1.0), ("bf16", 1.0, 0.0)),
        ((2.0, 2.5), (1.0, 1.0), ("fp32", 0.8, 0.0)),
        ((3.0, 1.0), (1.0, 1.021), ("fp32", 3.0, pytest.approx(0.021))),
        ((3.0, 1.0), (0.0, 0.0021), ("fp32", 3.0, pytest.approx(0.021))),
        ((3.0, 1.0), (1.0, math.nan), ("fp32", 3.0, None)),
    ],
)
def test_bf16_stays_if_it_is_no_slower_and_trains_to_the_same_loss(
    seconds: tuple[float, float], losses: tuple[float, float], expected: tuple[object, ...]
) -> None:
    taken: list[tuple[Precision, int]] = []

    def steps(precision: Precision, loss: float) -> Callable[[int], float]:
        def step(index: int) -> float:
            taken.append((precision, index))
            return loss if index >= WARM_UP_STEPS else 1e9  # the first steps don't count

        return step

    clock = scripted_clock(fp32=seconds[0], bf16=seconds[1])
    check = check_precision({"fp32": steps("fp32", losses[0]), "bf16": steps("bf16", losses[1])}, clock)
    assert check.precision == expected[0]
    assert check.speedup == pytest.approx(expected[1])
    assert check.loss_difference == expected[2]
    assert (len(taken), taken[:4]) == (CHECK_STEPS, [("fp32", 0), ("bf16", 0), ("bf16", 1), ("fp32", 1)])


@pytest.mark.skipif(not HAS_BF16, reason="this processor doesn't compute in bf16")
@pytest.mark.parametrize(("bf16_seconds", "taken"), [(0.5, "bf16"), (2.0, "fp32")])
def test_a_measured_choice_is_told_and_the_run_is_the_one_with_that_precision(
    wide_rows: Dataset, bf16_seconds: float, taken: Precision
) -> None:
    model = {"architecture": "mlp", "params": {"hidden": [488], "dropout": 0.2}}
    before = torch.get_rng_state()
    events = train(wide_config(model=model), wide_rows, clock=scripted_clock(fp32=1.0, bf16=bf16_seconds))
    chosen = next(events)
    assert isinstance(chosen, PrecisionChosen)
    assert (chosen.check.precision, chosen.config.precision) == (taken, taken)
    assert torch.equal(before, torch.get_rng_state())
    plain = train(wide_config(model=model, precision=taken), wide_rows)
    for _ in range(3):
        ours, theirs = next(events), next(plain)
        assert isinstance(ours, StepReport)
        assert isinstance(theirs, StepReport)
        assert torch.equal(ours.loss, theirs.loss)

    assert isinstance(ours, StepReport)
    checkpoint = ours.checkpoint()
    resumed = next(train(wide_config(model=model), wide_rows, resume_from=checkpoint, clock=scripted_clock(fp32=1.0, bf16=0.1)))
    expected = next(events)
    assert isinstance(resumed, StepReport)
    assert isinstance(expected, StepReport)
    assert torch.equal(resumed.loss, expected.loss)
    assert resumed.checkpoint().state["config"]["precision"] == taken


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"schedule": {"type": "warm_restarts", "cycles": 1, "epochs": MIN_RUN_STEPS // 2 - 1}}]
)
def test_given_precisions_and_short_runs_are_not_measured(wide_rows: Dataset, changes: dict[str, object]) -> None:
    assert isinstance(next(train(wide_config(**changes), wide_rows, clock=scripted_clock(fp32=1.0, bf16=2.0))), StepReport)
