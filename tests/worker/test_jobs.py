from collections.abc import Callable

import pytest
from pydantic import ValidationError

from clr.config import TrainingConfig
from worker.job_requests import TrainJobRequest
from worker.job_specs import JobSpec, read_spec
from worker.jobs import TERMINAL, JobKind, JobRecord, JobStatus, allowed_actions, now_rfc3339, rfc3339


def test_a_request_is_a_training_configuration_with_labels() -> None:
    body = {"dataset_id": "ds_x", "name": "first", "metadata": {"team": "vision"}, "seed": 7, "model": {"architecture": "small_cnn"}}
    request = TrainJobRequest.model_validate(body)
    assert request.training_config() == TrainingConfig.model_validate({"seed": 7, "model": {"architecture": "small_cnn"}})
    assert type(request.training_config()) is TrainingConfig


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"unknown": 1}, ("unknown",)),
        ({"kind": "study"}, ("kind",)),
        ({"name": "x" * 201}, ("name",)),
        ({"metadata": {"k": 1}}, ("metadata", "k")),
        ({"metadata": {"k" * 65: "v"}}, ("metadata", "k" * 65, "[key]")),
        ({"metadata": {str(i): "" for i in range(17)}}, ("metadata",)),
    ],
)
def test_labels_are_bounded_and_unknown_fields_refused(change: dict[str, object], place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainJobRequest.model_validate({"dataset_id": "ds_x", **change})
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_a_spec_reads_back_as_it_was_stored(new_spec: Callable[[], JobSpec]) -> None:
    spec = new_spec()
    assert read_spec(spec.model_dump_json()) == spec


def record(status: JobStatus, kind: JobKind = JobKind.TRAIN, *, schedule: object = None) -> JobRecord:
    now = now_rfc3339()
    return JobRecord("job_1", kind, None, status, None, "ds_1", {}, {"schedule": schedule or {}, "budget": None}, {}, now)


def test_what_a_job_allows_depends_on_its_state_and_on_whether_its_cycles_are_fixed() -> None:
    fixed = {"type": "warm_restarts", "cycles": 2}
    assert allowed_actions(record(JobStatus.QUEUED, schedule=fixed)) == ("cancel", "pause")
    assert allowed_actions(record(JobStatus.RUNNING, schedule=fixed)) == ("cancel", "stop", "pause", "extend")
    assert allowed_actions(record(JobStatus.SUCCEEDED, schedule=fixed)) == ("delete", "extend")
    assert allowed_actions(record(JobStatus.RUNNING, schedule=fixed | {"cycles": "auto"})) == ("cancel", "stop", "pause")
    assert allowed_actions(record(JobStatus.SUCCEEDED, JobKind.EVALUATE)) == ("delete",)
    assert allowed_actions(record(JobStatus.PAUSED)) == ("cancel", "stop", "resume")
    assert allowed_actions(record(JobStatus.PAUSED, JobKind.STUDY)) == ("cancel", "resume")


def test_terminal_jobs_can_only_be_deleted() -> None:
    assert {status for status in JobStatus if allowed_actions(record(status)) == ("delete",)} == TERMINAL
    assert [status for status in JobStatus if status.is_terminal] == [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"
