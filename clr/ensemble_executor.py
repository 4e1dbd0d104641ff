"""An ensemble's forward pass in the form that was measured to be the fastest for the number of rows.

Forms (``clr.ensemble_forms``) are measured per bucket, a number of rows that is a power of two, and are taken only where they agree with
the loop over the members within ``TOLERANCE`` and are faster. Until a bucket is measured, and wherever nothing is faster, it is the loop.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from clr.ensemble import Ensemble, EnsemblePrediction, RegressionPrediction, combine_stacked, combine_values, joined
from clr.ensemble_forms import Form, loop, other_forms
from clr.inference import BATCH_ROWS, predictions
from clr.preprocessing import Preprocessing
from clr.targets import Task

LOOP = "loop"
TOLERANCE = 1e-4
"""Largest difference from the loop in a probability; of a regression in units of the target's standard deviation."""

MARGIN = 0.97
"""A form must take at most this part of the loop's time: what is as fast as the loop is the loop."""

MAX_BUCKET = 256
ROUNDS = 7
TUNING_SECONDS = 1.0
"""Time for measuring one ensemble; what is not measured by then stays the loop."""


class EnsembleExecutor:
    """Predicts as its ensemble does, faster. One thread at a time.

    Attributes:
        choices: The form in use, by bucket.
        size_bytes: What the ensemble and the copies of its weights take.
    """

    def __init__(self, ensemble: Ensemble, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.ensemble = ensemble
        self.choices: dict[int, str] = {}
        self.size_bytes = ensemble.size_bytes
        self._clock = clock
        self._forms: dict[str, Form] = {LOOP: loop(ensemble.members)}

    @torch.inference_mode()
    def member_outputs(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C) for rows that ``Ensemble.checked`` has passed, in the form chosen for their number."""
        return self._forms[self.choices.get(bucket_of(len(rows)), LOOP)](rows.float())

    def predict(self, rows: Tensor, *, with_members: bool = False) -> EnsemblePrediction | RegressionPrediction:
        """The mean with its uncertainty, for rows that ``Ensemble.checked`` has passed."""
        parts = [self._predict(batch, with_members=with_members) for batch in torch.split(rows, BATCH_ROWS)]
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], EnsemblePrediction):
            return joined([part for part in parts if isinstance(part, EnsemblePrediction)])
        return combine_values(torch.cat([part.member_values_MB for part in parts if isinstance(part, RegressionPrediction)], dim=1))

    def tune(self) -> Iterator[None]:
        """Measures all buckets, a short step at each ``next``, so that predictions can go between."""
        yield from _Tuning(self, self._clock).steps()

    @torch.inference_mode()
    def _predict(self, rows: Tensor, *, with_members: bool) -> EnsemblePrediction | RegressionPrediction:
        outputs_MBC = self.member_outputs(rows)
        if self.ensemble.task is Task.REGRESSION:
            return combine_values(_values(self.ensemble, outputs_MBC))
        return combine_stacked(outputs_MBC.softmax(2), with_members=with_members)

    def adopt(self, forms: dict[str, Form], choices: dict[int, str]) -> None:
        """Keeps the forms that were chosen, and the memory of no others."""
        used = {name: forms[name] for name in set(choices.values())}
        self._forms = {LOOP: self._forms[LOOP], **used}
        self.choices = choices
        self.size_bytes = self.ensemble.size_bytes * (1 + len(used.keys() - {LOOP}))


class _Tuning:
    """One measurement of all forms of an ensemble."""

    def __init__(self, executor: EnsembleExecutor, clock: Callable[[], float]) -> None:
        self._executor, self._clock = executor, clock
        self._ensemble = executor.ensemble
        self._spent = 0.0

    def steps(self) -> Iterator[None]:
        """As ``EnsembleExecutor.tune``."""
        reference = loop(self._ensemble.members)
        forms: dict[str, Form] = {LOOP: reference}
        for name, make in other_forms(self._ensemble.members).items():
            with torch.inference_mode():
                forms[name] = make()
            yield
        if len(forms) == 1:
            return
        choices: dict[int, str] = {}
        generator = torch.Generator().manual_seed(0)
        for bucket in buckets():
            rows = _calibration_rows(self._ensemble, bucket, generator)
            exact = self._answers(reference, rows)
            yield
            agreeing = {}
            for name, form in forms.items():
                if name == LOOP or _largest_difference(self._answers(form, rows), exact) <= TOLERANCE:
                    agreeing[name] = form
                yield
            seconds: dict[str, float] = {}
            for _ in range(ROUNDS):
                for name, form in agreeing.items():
                    seconds[name] = min(seconds.get(name, float("inf")), self._measured(form, rows))
                    yield
            best = min(seconds, key=lambda name: seconds[name])
            choices[bucket] = best if seconds[best] <= MARGIN * seconds[LOOP] else LOOP
            if self._spent > TUNING_SECONDS:
                break
        rest = [bucket for bucket in buckets() if bucket not in choices]
        self._executor.adopt(forms, choices | dict.fromkeys(rest, LOOP))

    @torch.inference_mode()
    def _answers(self, form: Form, rows: Tensor) -> Tensor:
        """What the members say for the rows: probabilities, or values in standard deviations."""
        began = self._clock()
        try:
            outputs_MBC = form(rows)
        except RuntimeError:  # torch's vectorising refuses what it cannot do
            return torch.full((1,), float("nan"))
        finally:
            self._spent += self._clock() - began
        return outputs_MBC.softmax(2) if self._ensemble.task is Task.CLASSIFICATION else outputs_MBC

    @torch.inference_mode()
    def _measured(self, form: Form, rows: Tensor) -> float:
        began = self._clock()
        form(rows)
        seconds = self._clock() - began
        self._spent += seconds
        return seconds


def bucket_of(num_rows: int) -> int:
    """The bucket of a number of rows: the next power of two, up to ``MAX_BUCKET``."""
    return min(MAX_BUCKET, 1 << (num_rows - 1).bit_length())


def buckets() -> list[int]:
    """All buckets, ascending."""
    return [1 << exponent for exponent in range(MAX_BUCKET.bit_length())]


def _calibration_rows(ensemble: Ensemble, num_rows: int, generator: torch.Generator) -> Tensor:
    """Rows with the mean and three times the spread of the training rows, so that odd ones are among them."""
    preprocessing: Preprocessing = ensemble.members[0][1]
    match preprocessing.layout:
        case "features":
            mean, std = preprocessing.mean.reshape(ensemble.input_shape), preprocessing.std.reshape(ensemble.input_shape)
        case "grey":
            mean, std = preprocessing.mean[0], preprocessing.std[0]
        case "channels_last":
            mean, std = preprocessing.mean.permute(1, 2, 0), preprocessing.std.permute(1, 2, 0)
        case "channels_first":
            mean, std = preprocessing.mean, preprocessing.std
    noise = torch.randn((num_rows, *ensemble.input_shape), generator=generator)
    return (mean.cpu() + 3 * std.cpu() * noise).to(preprocessing.mean.device)


def _largest_difference(answers: Tensor, exact: Tensor) -> float:
    """Infinite where one of them is no number."""
    if answers.shape != exact.shape or not answers.isfinite().all():
        return float("inf")
    return float((answers - exact).abs().max())


def _values(ensemble: Ensemble, outputs_MBC: Tensor) -> Tensor:
    """Values (M, B) in the target's unit."""
    return torch.stack(
        [
            predictions(outputs_BC, Task.REGRESSION, preprocessing)
            for outputs_BC, (_, preprocessing) in zip(outputs_MBC, ensemble.members, strict=True)
        ]
    )
