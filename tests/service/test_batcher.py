"""What waits together is computed together, and each gets its own rows."""

import asyncio
import threading

import pytest
import torch
from torch import Tensor

from clr.ensemble import Ensemble, EnsemblePrediction
from service.batcher import MAX_BATCH_ROWS, Batcher, Timed
from tests.service.conftest import Trained


class SlowEnsemble(Ensemble):
    """Holds its first pass up until it is told to go on, and remembers how many rows each pass had."""

    def __init__(self, trained: Trained) -> None:
        loaded = Ensemble.load([trained.weights(cycle) for cycle in range(3)])
        self.__dict__.update(loaded.__dict__)
        self.passes: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def predict_checked(self, rows: Tensor, *, with_members: bool = False) -> EnsemblePrediction:
        """One pass."""
        self.passes.append(len(rows))
        self.begun.set()
        assert self.go_on.wait(10)
        if rows.isnan().any():
            raise ValueError("rows that fail")
        prediction = super().predict_checked(rows, with_members=with_members)
        assert isinstance(prediction, EnsemblePrediction)
        return prediction


async def asked_together(ensemble: SlowEnsemble, parts: list[Tensor], *, with_members: tuple[int, ...] = ()) -> list[Timed | BaseException]:
    """The answers to parts that all came while the thread was busy with the first."""
    batcher = Batcher()
    try:
        first = asyncio.create_task(batcher.predict(ensemble, parts[0]))
        await asyncio.to_thread(ensemble.begun.wait, 10)
        rest = [
            asyncio.create_task(batcher.predict(ensemble, part, with_members=number in with_members))
            for number, part in enumerate(parts[1:], start=1)
        ]
        await asyncio.sleep(0)  # they have asked
        ensemble.go_on.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)
    finally:
        await asyncio.to_thread(batcher.close)


@pytest.fixture
def ensemble(trained: Trained) -> SlowEnsemble:
    """Three members."""
    return SlowEnsemble(trained)


def test_rows_that_wait_share_a_pass_and_keep_their_answers(ensemble: SlowEnsemble, trained: Trained) -> None:
    rows = torch.from_numpy(trained.x)
    parts = [rows[:1], rows[1:4], rows[4:9]]
    answers = asyncio.run(asked_together(ensemble, parts))
    assert ensemble.passes == [1, 8], "what waited went together"
    expected = Ensemble.predict(ensemble, rows)
    for part, answer in zip((slice(0, 1), slice(1, 4), slice(4, 9)), answers, strict=True):
        assert isinstance(answer, Timed)
        assert isinstance(answer.prediction, EnsemblePrediction)
        torch.testing.assert_close(answer.prediction.probs_BC, expected[part], atol=1e-6, rtol=0)
        assert answer.prediction.labels_B.tolist() == expected[part].argmax(1).tolist()


def test_a_large_request_goes_alone(ensemble: SlowEnsemble, trained: Trained) -> None:
    rows = torch.from_numpy(trained.x).repeat(3, 1)
    asyncio.run(asked_together(ensemble, [rows[:1], rows[:200], rows[: MAX_BATCH_ROWS + 50], rows[:50]]))
    assert ensemble.passes == [1, 250, 306]


def test_only_those_get_members_who_asked(ensemble: SlowEnsemble, trained: Trained) -> None:
    rows = torch.from_numpy(trained.x)
    answers = asyncio.run(asked_together(ensemble, [rows[:1], rows[:2], rows[:3]], with_members=(2,)))
    shapes = [answer.prediction.member_probs_MBC for answer in answers if isinstance(answer, Timed)]  # type: ignore[union-attr]
    assert [None if each is None else tuple(each.shape) for each in shapes] == [None, None, (3, 3, 3)]


def test_an_error_is_told_to_those_of_its_pass_and_the_thread_goes_on(ensemble: SlowEnsemble, trained: Trained) -> None:
    rows = torch.from_numpy(trained.x)
    answers = asyncio.run(asked_together(ensemble, [rows[:1], rows[:2] * torch.nan, rows[:300].byte()]))
    assert [type(answer) for answer in answers] == [Timed, ValueError, Timed], "uint8 rows are a pass of their own"


def test_who_has_given_up_costs_no_pass(ensemble: SlowEnsemble, trained: Trained) -> None:
    rows = torch.from_numpy(trained.x)

    async def give_up() -> None:
        batcher = Batcher()
        first = asyncio.create_task(batcher.predict(ensemble, rows[:1]))
        await asyncio.to_thread(ensemble.begun.wait, 10)
        second = asyncio.create_task(batcher.predict(ensemble, rows[:5]))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        ensemble.go_on.set()
        assert isinstance(await first, Timed)
        await asyncio.to_thread(batcher.close)

    asyncio.run(give_up())
    assert ensemble.passes == [1]
