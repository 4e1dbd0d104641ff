"""Studies on real stores, without workers: runs are made once, joined once, and go with their study."""

from collections.abc import Callable

import pytest
import redis

from clr.study_config import StudyConfig
from tests.job_stores import complete_store
from tests.worker.training_jobs import record_of, status_of, tiny_spec
from worker.artifacts import ArtifactMissing, ArtifactStore
from worker.deletion import delete_job
from worker.job_specs import StudySpec, TrainSpec, read_spec
from worker.job_store import Claim, InvalidState, JobMissing, Refused, RunInUse, StoreUnavailable, StudyOver
from worker.jobs import Action, JobStatus, Phase, TerminalStatus
from worker.rebuild import rebuild
from worker.reconciler import reconcile_once
from worker.records import job_prefix, result_key, spec_key, write_document
from worker.results import result_of
from worker.studies import advance_studies, advance_study, advance_study_of
from worker.study_runs import run_ids

CONFIG = StudyConfig.model_validate(
    {"seeds": [0, 1], "cycles": 2, "epochs": 2, "arms": ["snapshot_ensemble", "step", "no_cycle", "cosine", "independent"]}
)
KEYS = ["snapshot_ensemble-0", "step-0", "cosine-0", "cosine-1", "snapshot_ensemble-1", "step-1", "independent-1"]


class Place:
    """Both stores, and a study whose runs are ended by hand."""

    def __init__(self, client: redis.Redis, artifacts: ArtifactStore) -> None:
        self.client = client
        self.store = complete_store(client)
        self.artifacts = artifacts
        self.sent: list[str] = []
        for number in range(4):  # so that there is room for all runs at once
            self.store.register_worker(f"worker-{number}", {}, ttl_ms=600_000)

    def submit(self) -> StudySpec:
        spec = tiny_spec(CONFIG)
        assert isinstance(spec, StudySpec)
        write_document(self.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
        self.store.submit(spec, idempotency_key=None, body_sha256="")
        return spec

    def advance(self, study: StudySpec) -> bool:
        return advance_study(self.store, self.artifacts, self.sent.append, study.id)

    def end(self, job_id: str, status: TerminalStatus = JobStatus.SUCCEEDED, *, store_result: bool = True) -> None:
        claim = self.store.claim(job_id, "worker-1", 30_000, 3)
        assert isinstance(claim, Claim), claim
        if store_result:
            write_document(self.artifacts, result_key(job_id), result_of(self.store, record_of(self.store, job_id)) | {"status": status})
        assert self.store.finish(job_id, claim.epoch, status)

    def reconcile(self) -> None:
        reconcile_once(self.store, self.artifacts, self.sent.append, max_crashes=3)

    def wipe_and_rebuild(self) -> None:
        self.client.flushall()
        rebuild(self.store, self.artifacts)


@pytest.fixture
def place(redis_client: redis.Redis, artifacts: ArtifactStore) -> Place:
    return Place(redis_client, artifacts)


def test_a_study_waits_and_its_runs_are_ordinary_queued_jobs(place: Place) -> None:
    study = place.submit()
    assert place.advance(study) is False
    record = record_of(place.store, study.id)
    assert (record.status, record.phase, record.position) == (JobStatus.QUEUED, Phase.WAITING_FOR_RUNS, None)
    assert place.store.claim(study.id, "worker-1", 30_000, 3) == Refused("waiting")
    runs = run_ids(study)
    assert sorted(runs) == sorted(KEYS)
    assert place.sent == list(runs.values())
    for key, job_id in runs.items():
        run = record_of(place.store, job_id)
        assert (run.kind, run.name, run.parent_id, run.status) == ("train", key, study.id, JobStatus.QUEUED)
        assert run.position is not None
        spec = read_spec(place.artifacts.read(spec_key(job_id)))
        assert isinstance(spec, TrainSpec)
        assert (spec.num_steps, spec.epochs, spec.created_at) == (2 * study.steps_per_epoch, 2.0, study.created_at)


def test_runs_are_made_once_however_often_someone_looks(place: Place) -> None:
    study = place.submit()
    for _ in range(3):
        place.advance(study)
    assert len(place.sent) == len(KEYS)
    assert len(place.store.list(limit=100).records) == len(KEYS) + 1


def test_what_was_interrupted_while_runs_were_made_goes_on(place: Place) -> None:
    study = place.submit()

    def die_at_the_third(job_id: str) -> None:
        place.sent.append(job_id)
        if len(place.sent) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advance_study(place.store, place.artifacts, die_at_the_third, study.id)
    place.advance(study)
    assert place.sent == list(run_ids(study).values())


def test_a_study_joins_the_queue_once_when_all_results_are_stored(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    *others, last = run_ids(study).values()
    for job_id in others:
        place.end(job_id)
    assert place.advance(study) is False
    place.end(last, JobStatus.FAILED, store_result=False)
    assert place.advance(study) is False  # the table is made of results, and one is not there yet
    write_document(place.artifacts, result_key(last), result_of(place.store, record_of(place.store, last)))
    assert place.advance(study) is True
    assert place.sent[-1] == study.id
    assert record_of(place.store, study.id).position == 1
    assert place.advance(study) is False
    assert isinstance(place.store.claim(study.id, "worker-1", 30_000, 3), Claim)


def test_whoever_ends_the_last_run_takes_the_study_on(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    for job_id in run_ids(study).values():
        place.end(job_id)
        advance_study_of(place.store, place.artifacts, place.sent.append, job_id)
    assert place.sent[-1] == study.id
    advance_study_of(place.store, place.artifacts, place.sent.append, study.id)  # a study is no run
    assert place.sent.count(study.id) == 1


def test_the_reconciler_does_all_of_it(place: Place) -> None:
    study = place.submit()
    place.reconcile()
    for job_id in run_ids(study).values():
        place.end(job_id, store_result=False)  # it files the results too
    place.reconcile()
    assert record_of(place.store, study.id).phase == Phase.WAITING_FOR_WORKER


def test_progress_is_the_mean_of_the_runs_and_told_when_it_changes(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    runs = run_ids(study)
    claim = place.store.claim(runs["step-0"], "worker-1", 30_000, 3)
    assert isinstance(claim, Claim)
    progress = record_of(place.store, runs["step-0"]).progress | {"fraction": 0.5, "step": 1}
    place.store.report(runs["step-0"], claim.epoch, progress=progress)
    place.end(runs["cosine-0"])
    for _ in range(3):
        place.advance(study)
    found = record_of(place.store, study.id).progress
    assert found["fraction"] == pytest.approx(1.5 / 7)
    assert (found["step"], found["steps"]) == (1, study.num_steps)
    events = place.store.events(study.id, types=["progress"])
    assert [(event.data["runs"], event.data["runs_ended"]) for event in events] == [(7, 1)]


def test_the_end_of_a_run_that_was_already_whole_is_told(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    run = run_ids(study)["step-0"]
    claim = place.store.claim(run, "worker-1", 30_000, 3)
    assert isinstance(claim, Claim)
    place.store.report(run, claim.epoch, progress=record_of(place.store, run).progress | {"fraction": 1.0})
    place.advance(study)
    assert place.store.finish(run, claim.epoch, JobStatus.SUCCEEDED)
    place.advance(study)
    events = place.store.events(study.id, types=["progress"])
    assert [(event.data["fraction"], event.data["runs_ended"]) for event in events] == [
        (pytest.approx(1 / 7), 0),
        (pytest.approx(1 / 7), 1),
    ]


def test_cancelling_a_study_ends_its_runs(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    runs = run_ids(study)
    place.end(runs["step-0"])
    claim = place.store.claim(runs["step-1"], "worker-1", 30_000, 3)
    assert isinstance(claim, Claim)
    assert place.store.request(study.id, Action.CANCEL).status == JobStatus.CANCELLED
    advance_studies(place.store, place.artifacts, place.sent.append)
    assert status_of(place.store, runs["step-0"]) == JobStatus.SUCCEEDED
    assert record_of(place.store, runs["step-1"]).requested_action == Action.CANCEL
    assert status_of(place.store, runs["cosine-0"]) == JobStatus.CANCELLED
    assert place.store.stray_runs() == [runs["step-1"]]  # until its worker has ended it
    assert place.store.finish(runs["step-1"], claim.epoch, JobStatus.CANCELLED)
    assert place.store.stray_runs() == []


def test_runs_that_are_made_too_late_are_not_made(place: Place) -> None:
    study = place.submit()
    cancelled = False

    def cancel_meanwhile(job_id: str) -> None:
        nonlocal cancelled
        if not cancelled:
            place.store.request(study.id, Action.CANCEL)
        cancelled = True
        place.sent.append(job_id)

    assert advance_study(place.store, place.artifacts, cancel_meanwhile, study.id) is False
    assert len(place.sent) == 1
    second = list(run_ids(study).values())[1]
    assert place.store.get(second) is None
    assert not place.artifacts.exists(spec_key(second))  # a rebuild would bring it back


def test_a_run_that_outlives_its_study_in_a_rebuild_is_cancelled(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    place.store.request(study.id, Action.CANCEL)
    write_document(place.artifacts, result_key(study.id), result_of(place.store, record_of(place.store, study.id)))
    place.wipe_and_rebuild()  # before anyone has cancelled the runs
    assert len(place.store.stray_runs()) == len(KEYS)
    place.reconcile()
    assert {status_of(place.store, job_id) for job_id in run_ids(study).values()} == {JobStatus.CANCELLED}


def test_a_wiped_redis_gets_the_study_and_its_runs_back(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    runs = run_ids(study)
    place.end(runs["step-0"])
    place.wipe_and_rebuild()
    record = record_of(place.store, study.id)
    assert (record.status, record.phase) == (JobStatus.QUEUED, Phase.WAITING_FOR_RUNS)
    assert status_of(place.store, runs["step-0"]) == JobStatus.SUCCEEDED
    place.reconcile()
    assert len(place.store.list(limit=100).records) == len(KEYS) + 1
    for key, job_id in runs.items():
        if key != "step-0":
            place.end(job_id)
    place.wipe_and_rebuild()
    assert place.advance(study) is True


def test_nothing_is_made_while_jobs_are_being_read_back(place: Place) -> None:
    study = place.submit()
    place.client.flushall()
    with pytest.raises(StoreUnavailable, match="being read back"):
        place.advance(study)
    assert place.sent == []


def test_a_run_cannot_be_deleted_while_its_study_is_there(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    job_id = run_ids(study)["step-0"]
    place.end(job_id)
    with pytest.raises(RunInUse, match=f"{job_id} is a run of the study {study.id}, which has not ended") as refused:
        delete_job(place.store, place.artifacts, job_id)
    assert refused.value.job_ids == [study.id]
    place.store.request(study.id, Action.CANCEL)
    with pytest.raises(RunInUse, match=f"{job_id} is a run of the study {study.id}, whose result names it: delete the study"):
        delete_job(place.store, place.artifacts, job_id)
    assert place.store.get(job_id) is not None


def test_with_a_study_go_its_runs(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    place.store.request(study.id, Action.CANCEL)
    with pytest.raises(InvalidState, match=r"cannot be deleted yet, since its run job_\w+ is still ending"):
        delete_job(place.store, place.artifacts, study.id)
    advance_studies(place.store, place.artifacts, place.sent.append)
    delete_job(place.store, place.artifacts, study.id)
    assert place.store.list(limit=100).records == []
    assert place.artifacts.list_keys("jobs") == []
    with pytest.raises(JobMissing):
        delete_job(place.store, place.artifacts, study.id)


def test_an_interrupted_deletion_is_carried_to_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    study = place.submit()
    place.advance(study)
    place.store.request(study.id, Action.CANCEL)
    advance_studies(place.store, place.artifacts, place.sent.append)
    removed: list[str] = []
    delete_prefix: Callable[..., None] = place.artifacts.delete_prefix

    def die_at_the_third(prefix: str, *, last: str) -> None:
        removed.append(prefix)
        if len(removed) == 3:
            raise KeyboardInterrupt
        delete_prefix(prefix, last=last)

    with monkeypatch.context() as patch:
        patch.setattr(place.artifacts, "delete_prefix", die_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            delete_job(place.store, place.artifacts, study.id)
    place.reconcile()
    assert place.store.list(limit=100).records == []
    assert place.artifacts.list_keys("jobs") == []


def test_a_run_of_a_study_that_is_over_is_refused(place: Place) -> None:
    study = place.submit()
    place.advance(study)
    run = read_spec(place.artifacts.read(spec_key(run_ids(study)["step-0"])))
    place.store.request(study.id, Action.CANCEL)
    other = run.model_copy(update={"id": run.id[:-1] + ("0" if run.id[-1] != "0" else "1")})
    with pytest.raises(StudyOver, match=f"study {study.id} has ended"):
        place.store.submit(other, idempotency_key=None, body_sha256="")


def test_a_study_that_is_being_deleted_is_left_alone(place: Place) -> None:
    study = place.submit()
    place.artifacts.delete(spec_key(study.id))
    with pytest.raises(ArtifactMissing):
        place.artifacts.read(spec_key(study.id))
    assert place.advance(study) is False
    assert place.artifacts.list_keys(job_prefix(study.id)) == []


def test_few_runs_of_a_study_wait_at_a_time(place: Place) -> None:
    for number in range(1, 4):
        place.store.forget_worker(f"worker-{number}")
    study = place.submit()
    runs = list(run_ids(study).values())
    for num_ended in range(len(runs)):
        assert place.advance(study) is False
        assert place.sent == runs[: num_ended + 2]  # two for the worker that is left
        place.end(runs[num_ended])
    assert place.advance(study) is True
