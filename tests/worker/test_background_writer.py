"""The thread that writes files while training goes on: its order, its errors, its bound."""

from threading import Event, Thread

import pytest

from worker.background_writer import MAX_WAITING_FILES, BackgroundWriter
from worker.protocol import Line, Ready, ResultStaged


def numbered(number: int) -> ResultStaged:
    return ResultStaged(document={"number": number})


def test_messages_and_files_are_told_in_the_order_in_which_they_were_given() -> None:
    told: list[Line] = []
    may_write = Event()

    def write() -> Line:
        assert may_write.wait(20)
        return numbered(1)

    with BackgroundWriter(told.append) as writer:
        writer.send(numbered(0))
        writer.stage(write)
        writer.send(numbered(2))
        assert numbered(1) not in told  # nobody waits for the disk
        may_write.set()
        writer.flush()
        assert told == [numbered(0), numbered(1), numbered(2)]
        writer.send(Ready())
    assert told[-1] == Ready()


def test_what_could_not_be_written_is_raised_and_nothing_follows_it() -> None:
    told: list[Line] = []
    full = OSError("no space left")

    def refuse() -> Line:
        raise full

    def use() -> None:
        with BackgroundWriter(told.append) as writer:
            writer.stage(refuse)
            writer.send(numbered(1))

    with pytest.raises(OSError, match="no space left") as caught:
        use()
    assert caught.value is full
    assert told == []


def test_an_error_of_the_training_is_not_hidden_and_comes_after_what_was_given() -> None:
    told: list[Line] = []

    def use() -> None:
        with BackgroundWriter(told.append) as writer:
            writer.stage(lambda: numbered(0))
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        use()
    assert told == [numbered(0)]


def test_training_waits_while_too_many_files_are_to_be_written() -> None:
    told: list[Line] = []
    may_write, has_given_all = Event(), Event()

    def write() -> Line:
        assert may_write.wait(20)
        return Ready()

    with BackgroundWriter(told.append) as writer:

        def give() -> None:
            for _ in range(MAX_WAITING_FILES + 1):
                writer.stage(write)
            has_given_all.set()

        giver = Thread(target=give)
        giver.start()
        assert not has_given_all.wait(0.05)
        may_write.set()
        giver.join(20)
        assert has_given_all.is_set()
    assert told == [Ready()] * (MAX_WAITING_FILES + 1)
