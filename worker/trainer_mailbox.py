"""What a trainer says, read in a thread of its own, so that its supervisor never waits for it. This module doesn't import torch."""

import logging
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from pydantic import ValidationError

from worker.protocol import Message
from worker.trainer_process import TrainerProcess

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exited:
    """The trainer has ended, and all that it said has been read."""

    status: int


Mailbox = SimpleQueue[Message | Exited]


def read_trainer(trainer: TrainerProcess, mailbox: Mailbox) -> Thread:
    """Starts the thread that fills the mailbox; it ends with the trainer."""
    reader = Thread(target=_read, args=(trainer, mailbox), name=f"read-{trainer.pid}", daemon=True)
    reader.start()
    return reader


def _read(trainer: TrainerProcess, mailbox: Mailbox) -> None:
    """Passes on what the trainer says, and its end."""
    try:
        for message in trainer.messages():
            mailbox.put(message)
    except ValidationError:
        logger.exception("trainer %d: killed, since it wrote something else than messages", trainer.pid)
        trainer.kill()
    mailbox.put(Exited(trainer.wait()))
