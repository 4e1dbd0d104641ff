"""The zero-wait batcher: an idle inference thread takes all that waits, at once; nobody waits for a timer.

One thread, because a forward pass uses all of torch's own threads; a second would only make both slower. While it computes, requests pile
up, and those of one ensemble become its next forward pass. What a row is answered may differ with its company in the last digits of
float32, as it does between batches of different sizes (at most 1e-6 in a probability).
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from clr.combination import EnsemblePrediction, RegressionPrediction
from clr.ensemble import Ensemble
from service.allocator import make_room_for_layers

logger = logging.getLogger(__name__)

MAX_BATCH_ROWS = 256
"""Rows of one pass; a request with more goes alone, since it gains nothing from company."""


Prediction = EnsemblePrediction | RegressionPrediction
Shared = TypeVar("Shared")


class Pass:
    """What an ensemble said about all rows of one forward pass, and what those who asked make of it together."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self._made: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.prediction)

    def share(self, name: str, make: Callable[[Prediction], Shared]) -> Shared:
        """What ``make`` returns; made for the first who asks, on the event loop of all of them."""
        if name not in self._made:
            self._made[name] = make(self.prediction)
        made: Shared = self._made[name]
        return made


class Timed(NamedTuple):
    """What an ensemble said, and how long that took.

    Attributes:
        start: The first of the request's rows within those of the pass.
        end: After the last.
    """

    company: Pass
    start: int
    end: int
    queue_seconds: float
    compute_seconds: float

    @property
    def prediction(self) -> Prediction:
        """What it said about the request's rows."""
        return self.company.prediction.part(self.start, self.end)


Outcome = Timed | Exception


class _Waiting(NamedTuple):
    ensemble: Ensemble
    rows: Tensor
    num_rows: int
    with_members: bool
    kind: tuple[int, torch.dtype, bool]  # those of one kind can go through the networks together
    asked: float
    loop: asyncio.AbstractEventLoop
    tell: Callable[[Outcome], None]
    is_unwanted: Callable[[], bool]


class Batcher:
    """The inference thread and what waits for it, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_idle = self._is_waking = False
        self._seen = 0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread once everything is answered."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    async def predict(self, ensemble: Ensemble, rows: Tensor, *, with_members: bool = False) -> Timed:
        """Answers rows that ``Ensemble.checked`` has passed. A caller that is cancelled before its turn costs no computing."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Timed] = loop.create_future()

        def tell(outcome: Outcome) -> None:
            if answer.done():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self.submit(ensemble, rows, with_members=with_members, tell=tell, loop=loop, is_unwanted=answer.cancelled)
        return await answer

    def submit(
        self,
        ensemble: Ensemble,
        rows: Tensor,
        *,
        tell: Callable[[Outcome], None],
        loop: asyncio.AbstractEventLoop,
        is_unwanted: Callable[[], bool] = lambda: False,
        with_members: bool = False,
    ) -> None:
        """As ``predict``, without a task: ``tell`` is called with the outcome on ``loop``, and must not raise.

        Rows whose ``is_unwanted`` says so when their turn comes are passed over, and nobody is told.
        """
        kind = id(ensemble), rows.dtype, with_members
        waiting = _Waiting(ensemble, rows, len(rows), with_members, kind, time.perf_counter(), loop, tell, is_unwanted)
        with self._changed:
            self._waiting.append(waiting)
            is_first = self._is_idle and not self._is_waking
            self._is_waking |= is_first
        if is_first:
            loop.call_soon(self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wakes the thread once a turn of the event loop has brought nothing new: what arrives together shares a pass, without a timer."""
        with self._changed:
            if self._seen < len(self._waiting) < MAX_BATCH_ROWS:
                self._seen = len(self._waiting)
            else:
                self._seen, self._is_waking = 0, False
                self._changed.notify()
                return
        loop.call_soon(self._wake, loop)

    def _work(self) -> None:
        make_room_for_layers()
        while _answer(self._next_batch()):
            pass

    def _next_batch(self) -> list[_Waiting]:
        """What goes through the networks together next, without those that nobody waits for any more; empty at the end."""
        with self._changed:
            while True:
                while self._waiting and self._waiting[0].is_unwanted():
                    self._waiting.popleft()
                if self._waiting:
                    return self._taken()
                if self._is_closing:
                    return []
                self._is_idle, self._is_waking, self._seen = True, False, 0
                self._changed.wait()
                self._is_idle = False

    def _taken(self) -> list[_Waiting]:
        first = self._waiting.popleft()
        batch, num_rows, rest = [first], first.num_rows, deque[_Waiting]()
        for each in self._waiting:
            if each.is_unwanted():
                continue
            if each.kind == first.kind and num_rows + each.num_rows <= MAX_BATCH_ROWS:
                batch.append(each)
                num_rows += each.num_rows
            else:
                rest.append(each)
        self._waiting = rest
        return batch


def _answer(batch: Sequence[_Waiting]) -> bool:
    """Computes a pass and hands the outcomes over; False where it is empty. Nothing of it is kept while the thread waits for the next."""
    begun = time.perf_counter()
    try:
        prediction = _predicted(batch) if batch else None
    except Exception as error:  # noqa: BLE001  # told to those who asked; the thread has others to serve
        outcomes: list[Outcome] = [error] * len(batch)
    else:
        if prediction is None:
            return False
        seconds = time.perf_counter() - begun
        company, ends = Pass(prediction), [0, *accumulate(each.num_rows for each in batch)]
        parts = zip(batch, ends, ends[1:], strict=False)
        outcomes = [Timed(company, start, end, begun - each.asked, seconds) for each, start, end in parts]
    for loop in {each.loop for each in batch}:
        answers = [(each.tell, outcome) for each, outcome in zip(batch, outcomes, strict=True) if each.loop is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_tell, answers)
    return True


def _predicted(batch: Sequence[_Waiting]) -> Prediction:
    first = batch[0]
    rows = first.rows if len(batch) == 1 else torch.cat([each.rows for each in batch])
    return first.ensemble.predict_checked(rows, with_members=first.with_members)


def _tell(answers: Sequence[tuple[Callable[[Outcome], None], Outcome]]) -> None:
    """Hands the outcomes to those who asked; on their event loop."""
    for tell, outcome in answers:
        try:
            tell(outcome)
        except Exception:
            logger.exception("an answer could not be handed over")  # the others of the pass still get theirs
