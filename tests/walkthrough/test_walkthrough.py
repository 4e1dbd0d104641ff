"""snapcycle from the beginning, one idea per test. Read it from top to bottom; ``client`` is a ``Client()`` of a running service."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from service.client import ApiError, AsyncClient, Client, Job
from service.client_core import Json
from service.client_requests import TrainOptions

RUN: TrainOptions = {"architecture": "mlp", "params": {"hidden": [32]}, "cycles": 3, "epochs_per_cycle": 8, "batch_size": 32}
"""Three cycles; everything that is left out has a default."""


def two_rings(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on two rings around the origin; the label says which one. No straight line parts them."""
    random = np.random.default_rng(num_rows)
    label = random.integers(0, 2, num_rows)
    angle = random.uniform(0, 2 * np.pi, num_rows)
    radius = 1 + label + random.normal(0, 0.15, num_rows)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), label


@pytest.fixture(scope="module")
def dataset(client: Client) -> Json:
    """Data comes first: rows and their labels."""
    x, y = two_rings(600)
    return client.datasets.upload_arrays(x, y, name="two rings")


@pytest.fixture(scope="module")
def job(client: Client, dataset: Json) -> Job:
    """Then one training run; ``wait`` returns when it has ended."""
    return client.jobs.train(dataset, **RUN).wait()


def test_a_dataset_is_what_the_service_understood_of_the_data(dataset: Json) -> None:
    assert dataset["status"] == "ready"
    assert dataset["task"] == "classification"
    assert dataset["rows"] == 600
    assert [one["name"] for one in dataset["summary"]["classes"]] == ["0", "1"]


def test_a_schedule_can_be_seen_before_anything_runs(client: Client) -> None:
    preview = client.schedules.preview({"type": "warm_restarts", "max_lr": 0.1, "cycles": 2, "epochs_per_cycle": 2}, steps_per_epoch=5)
    rates = preview["learning_rate"]
    assert preview["cycle_ends"] == [10, 20]
    assert rates[0] == rates[10] == 0.1, "each cycle restarts at the maximum"
    assert rates[9] == min(rates[:10]) == rates[19], "and ends at its lowest rate"


def test_a_doubtful_schedule_is_warned_about(client: Client) -> None:
    preview = client.schedules.preview({"type": "warm_restarts", "max_lr": 0.1, "cycles": 1, "epochs_per_cycle": 2}, steps_per_epoch=5)
    assert preview["warnings"] == ["one cycle never restarts: this is plain cosine annealing with one snapshot"]


def test_a_dry_run_says_what_would_run_and_creates_nothing(client: Client, dataset: Json) -> None:
    before = len(list(client.jobs.list()))
    plan = client.jobs.dry_run(dataset, cycles=4, epochs_per_cycle=2)
    assert len(plan["schedule"]["cycle_ends"]) == 4
    assert plan["config"]["optimizer"]["type"] == "sgd", "every default is written out"
    assert len(list(client.jobs.list())) == before


def test_one_run_leaves_a_snapshot_at_every_cycle_minimum(job: Job) -> None:
    snapshots = job.snapshots()
    assert [snapshot["cycle"] for snapshot in snapshots] == [0, 1, 2]
    assert all(snapshot["is_minimum"] for snapshot in snapshots)
    assert [snapshot["learning_rate"] < 0.001 for snapshot in snapshots] == [True, True, True]
    assert snapshots[0]["next_learning_rate"] == 0.1, "the next step is a warm restart"


def test_the_events_of_a_job_can_be_followed_live_or_afterwards(job: Job) -> None:
    types = [event["type"] for event in job.follow()]
    assert types[0] == "state"
    assert types.count("snapshot") == 3
    assert types[-1] == "end"


def test_the_ensemble_answers_with_the_mean_of_its_members(job: Job) -> None:
    x, _ = two_rings(4)
    answer = job.ensemble.explain(x, members=True)
    assert answer["members_used"] == 3
    mean = job.ensemble.predict(x)
    for row, prediction in enumerate(answer["predictions"]):
        assert np.shape(prediction["members"]) == (3, 2)
        np.testing.assert_allclose(np.mean(prediction["members"], axis=0), mean[row], atol=1e-6)


def test_the_ensemble_is_right_about_rows_that_it_never_saw(job: Job) -> None:
    x, y = two_rings(200)
    predictions = job.ensemble.predict(x).argmax(axis=1)
    assert (predictions == y).mean() > 0.95


def test_a_prediction_says_how_sure_it_is(job: Job) -> None:
    on_a_ring, between_the_rings = job.ensemble.explain(np.array([[1.0, 0.0], [1.5, 0.0]], np.float32))["predictions"]
    assert on_a_ring["label"] == "0"
    assert on_a_ring["uncertainty"]["entropy"] < between_the_rings["uncertainty"]["entropy"]


def test_the_ensemble_as_it_was_after_each_cycle_stays_available(job: Job) -> None:
    x, _ = two_rings(5)
    first = job.ensemble.explain(x, version=1, members=True)
    assert (first["ensemble_version"], first["members_used"]) == (1, 1)
    assert job.ensemble.describe()["version"] == 3


def test_chosen_snapshots_make_an_ensemble_of_their_own(client: Client, job: Job) -> None:
    last_two = [snapshot["id"] for snapshot in job.snapshots()[1:]]
    chosen = client.ensembles.get(client.ensembles.create(last_two)["id"])
    x, _ = two_rings(5)
    assert chosen.describe()["members"] == last_two
    assert chosen.explain(x)["members_used"] == 2


def test_a_snapshot_is_a_safetensors_file_that_needs_no_snapcycle(client: Client, job: Job, tmp_path: Path) -> None:
    path = client.snapshots.download(job.snapshots()[-1]["id"], tmp_path / "last.safetensors")
    shapes = {array.shape for array in load_file(path).values()}
    assert {(32, 2), (2, 32)} <= shapes, "the weights of both layers"


def test_the_same_run_again_gives_the_same_bits(client: Client, dataset: Json, job: Job) -> None:
    again = client.jobs.train(dataset, **RUN).wait()
    first, second = ([snapshot["sha256"] for snapshot in run.snapshots()] for run in (job, again))
    assert first == second
    assert len(set(first)) == 3, "and the members differ from each other"


def test_a_run_can_be_stopped_early_and_keeps_what_it_has(client: Client, dataset: Json) -> None:
    job = client.jobs.train(dataset, cycles=500, epochs_per_cycle=5)
    next(event for event in job.follow() if event["type"] == "snapshot")
    job.stop(when="cycle_end")
    stopped = job.wait()
    assert (stopped.status, stopped.data["stop_reason"]) == ("succeeded", "stopped")
    assert 1 <= len(stopped.snapshots()) < 500


def test_a_run_can_be_cancelled(client: Client, dataset: Json) -> None:
    job = client.jobs.train(dataset, cycles=500, epochs_per_cycle=5)
    job.cancel()
    assert job.wait().status == "cancelled"


def test_a_number_to_predict_makes_a_regression(client: Client) -> None:
    x = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    squares = client.datasets.upload_arrays(x, x[:, 0] ** 2)
    assert squares["task"] == "regression"
    assert squares["summary"]["target"]["max"] == 1


def test_a_table_is_predicted_by_the_names_of_its_columns(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text("petal,colour,price\n" + "1.0,white,2.5\n5.0,red,4.5\n" * 40)
    flowers = client.datasets.upload(path, target="price")
    job = client.jobs.train(flowers, architecture="mlp", params={"hidden": [8]}, cycles=2, epochs_per_cycle=20, batch_size=16).wait()
    rose, daisy = job.ensemble.explain([{"petal": 5.1, "colour": "red"}, {"petal": 0.9, "colour": "white"}])["predictions"]
    assert [rose["value"], daisy["value"]] == pytest.approx([4.5, 2.5], abs=0.2)
    assert rose["std"] < 0.2, "the spread of the members"


def test_a_refusal_names_the_field_the_value_and_the_remedy(client: Client, dataset: Json) -> None:
    with pytest.raises(ApiError) as refusal:
        client.jobs.train(dataset, architecture="resnt")
    assert refusal.value.status == 422
    assert "#/model/architecture" in str(refusal.value)
    assert "did you mean resnet" in str(refusal.value)


def test_a_cycle_too_short_for_a_minimum_is_refused_before_there_is_a_job(client: Client, dataset: Json) -> None:
    with pytest.raises(ApiError, match="lower cycles"):
        client.jobs.train(dataset, cycles=100, epochs=1)


def test_everything_can_be_awaited_instead(client: Client, job: Job) -> None:
    async def follow() -> list[str]:
        async with AsyncClient(client.url) as awaiting:
            same_job = await awaiting.jobs.get(job.id)
            return [event["type"] async for event in same_job.follow()]

    assert asyncio.run(follow()) == [event["type"] for event in job.follow()]
