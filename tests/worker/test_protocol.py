"""The lines between supervisor and trainer."""

import pytest
from pydantic import ValidationError

from tests.worker.training_jobs import tiny_config, tiny_spec
from worker.protocol import CheckpointStaged, Finished, HistoryRows, Ready, StagedFile, TrainerJob, decode_message


@pytest.mark.parametrize(
    "message",
    [
        Ready(),
        HistoryRows(rows=[[1, 0.5, 0, 0.1, 2.302585092994046]]),
        CheckpointStaged(step=7, file=StagedFile(name="checkpoint-7.safetensors", sha256="ab")),
        Finished(stop_reason="stopped"),
    ],
)
def test_a_message_survives_its_line(message: Ready | HistoryRows | CheckpointStaged | Finished) -> None:
    line = message.encode()
    assert line.count(b"\n") == 1
    assert decode_message(line) == message


def test_steps_stay_whole_numbers_and_rates_exact() -> None:
    message = decode_message(HistoryRows(rows=[[1, 0.1, 0, 1 / 3, 2.5]]).encode())
    assert isinstance(message, HistoryRows)
    assert message.rows == [[1, 0.1, 0, 1 / 3, 2.5]]
    assert isinstance(message.rows[0][0], int)


def test_a_job_survives_its_line() -> None:
    spec = tiny_spec(tiny_config())
    job = TrainerJob(
        spec=spec, dataset_path="/data", checkpoint_path=None, checkpoint_seconds=30, files={"a": "/b"}, documents={"c": {"d": 1}}
    )
    assert TrainerJob.model_validate_json(job.encode()) == job


@pytest.mark.parametrize("line", [b"Epoch 1/10\n", b"{}\n", b'{"type":"unheard_of"}\n', b'{"type":"ready","more":1}\n'])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_message(line)
