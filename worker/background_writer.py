"""Files written and told of while training goes on. Imported by the trainer process alone."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import BoundedSemaphore, Event, Thread
from types import TracebackType
from typing import Self

from worker.protocol import Line
from worker.trainer_dialogue import Send

MAX_WAITING_FILES = 2
"""Files hold copies of the weights: with a disk that is slower than the training, the training waits."""


Task = tuple[Callable[[], None], Callable[[], None]]
"""What is to be done, and what is called afterwards, done or not."""


class BackgroundWriter:
    """One thread that does what it is given, messages and files, in the order in which it was given.

    Invariant: the supervisor is told of everything in the order of the calls, and of a file only once it is on the disk. After an error
    nothing more is done, and the next call raises it. Leaving the context waits until all is done.
    """

    def __init__(self, send: Send) -> None:
        self._send_now = send
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._room = BoundedSemaphore(MAX_WAITING_FILES)
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, name="background-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._tasks.put(None)
        self._thread.join()
        if error is None:
            self._check()

    def send(self, line: Line) -> None:
        """Has the supervisor told, after everything that was given before."""
        self._check()
        self._tasks.put((lambda: self._send_now(line), _nothing))

    def stage(self, write: Callable[[], Line]) -> None:
        """Has files written, and told of by the line that ``write`` returns; waits while too many are to be written."""
        self._room.acquire()
        self._tasks.put((lambda: self._send_now(write()), self._room.release))
        self._check()

    def flush(self) -> None:
        """Returns when everything that was given so far is done."""
        done = Event()
        self._tasks.put((_nothing, done.set))
        done.wait()
        self._check()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            act, then = task
            try:
                if self._error is None:
                    act()
            except Exception as error:  # noqa: BLE001  # the training thread raises it
                self._error = error
            finally:
                then()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def _nothing() -> None:
    """Nothing is to be done."""
