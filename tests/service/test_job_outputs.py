"""Training curves, results, snapshots and their weights."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file

from tests.service.conftest import Server, Trained, Worker, field_error, problem

Submit = Callable[..., str]


def test_metrics_come_by_column(api: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    for step in (1, 2, 3):
        worker.progress(job_id, step)
    worker.snapshot(job_id, 0)
    found = api.get(f"/v1/jobs/{job_id}/metrics").json()
    assert found["columns"]["step"] == [1, 2, 3]
    assert found["columns"]["train_loss"] == [1.0, 0.5, 1 / 3]
    assert list(found["columns"]) == ["step", "epoch", "cycle", "learning_rate", "train_loss"]
    assert found["snapshots"][0]["step"] == 7
    assert api.get(f"/v1/jobs/{job_id}/metrics?from_step=2").json()["columns"]["step"] == [2, 3]


def test_thinned_metrics_keep_the_extremes(api: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    losses = {**dict.fromkeys(range(1, 2001), 1.0), 777: 50.0, 1234: 0.01}
    rows = [[step, step / 7, 0, 0.1 if step != 500 else 0.3, loss] for step, loss in losses.items()]
    assert worker.store.report(job_id, worker.epochs[job_id], metrics_rows=rows)
    found = api.get(f"/v1/jobs/{job_id}/metrics?max_points=100").json()
    assert found["total_rows"] == 2000
    assert len(found["columns"]["step"]) <= 100
    assert {1, 500, 777, 1234, 2000} <= set(found["columns"]["step"])


@pytest.mark.parametrize("query", ["max_points=1", "max_points=x", "from_step=-1", "names=train_loss"])
def test_bad_metrics_query_is_named(api: httpx2.Client, finished_job: str, query: str) -> None:
    field_error(api.get(f"/v1/jobs/{finished_job}/metrics?{query}"), query.partition("=")[0])


def test_result_comes_with_the_end(api: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    assert problem(api.get(f"/v1/jobs/{job_id}/result"), 409, "not_ready")["job_status"] == "queued"
    worker.run(job_id)
    result = api.get(f"/v1/jobs/{job_id}/result").json()
    assert (result["object"], result["status"], result["stop_reason"], result["error"]) == ("result", "succeeded", None, None)
    assert [snapshot["cycle"] for snapshot in result["snapshots"]] == [0, 1, 2]


def test_result_of_a_job_that_never_ran_is_empty(api: httpx2.Client, submit: Submit) -> None:
    job_id = submit()
    api.post(f"/v1/jobs/{job_id}/cancel")
    result = api.get(f"/v1/jobs/{job_id}/result").json()
    assert (result["status"], result["snapshots"], result["history"]["rows"]) == ("cancelled", [], [])
    assert result["config"]["batch_size"] == 16


def test_snapshots_come_in_pages(api: httpx2.Client, finished_job: str) -> None:
    url = f"/v1/jobs/{finished_job}/snapshots"
    first = api.get(f"{url}?limit=2").json()
    assert ([snapshot["cycle"] for snapshot in first["data"]], first["has_more"]) == ([0, 1], True)
    rest = api.get(f"{url}?limit=2&after={first['last_id']}").json()
    assert ([snapshot["cycle"] for snapshot in rest["data"]], rest["has_more"]) == ([2], False)
    for after in ("x", finished_job, "snap_01JDEADBEEF0000000000000000_0"):
        field_error(api.get(f"{url}?after={after}"), "after")
    field_error(api.get(f"{url}?limit=0"), "limit")


def test_snapshots_are_listed_as_they_come(api: httpx2.Client, submit: Submit, worker: Worker, trained: Trained) -> None:
    job_id = submit()
    assert api.get(f"/v1/jobs/{job_id}/snapshots").json()["data"] == []
    worker.claim(job_id)
    worker.snapshot(job_id, 0)
    (snapshot,) = api.get(f"/v1/jobs/{job_id}/snapshots").json()["data"]
    assert snapshot["id"] == f"snap_{job_id[4:]}_0"
    assert (snapshot["cycle"], snapshot["step"], snapshot["is_minimum"], snapshot["next_learning_rate"]) == (0, 7, True, 0.1)
    assert snapshot["learning_rate"] == trained.ends[0].snapshot.learning_rate
    assert snapshot["sha256"] == hashlib.sha256(trained.weights(0).read_bytes()).hexdigest()
    assert "files" not in snapshot
    assert api.get(f"/v1/snapshots/{snapshot['id']}").json() == snapshot


def test_weights_load_with_the_safetensors_package_alone(api: httpx2.Client, finished_job: str, trained: Trained, tmp_path: Path) -> None:
    response = api.get(f"/v1/snapshots/snap_{finished_job[4:]}_2/weights")
    assert response.status_code == 200
    digest = hashlib.sha256(response.content)
    assert response.headers["etag"] == f'"{digest.hexdigest()}"'
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert f'filename="snap_{finished_job[4:]}_2.safetensors"' in response.headers["content-disposition"]
    (tmp_path / "weights.safetensors").write_bytes(response.content)
    tensors = load_file(tmp_path / "weights.safetensors")
    for name, tensor in trained.ends[2].snapshot.tensors.items():
        assert torch.equal(tensors[name], tensor)


def weights_url(job_id: str) -> str:
    return f"/v1/snapshots/snap_{job_id[4:]}_0/weights"


@pytest.mark.parametrize(
    ("wanted", "start", "end"), [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-20", -20, None), ("bytes=5-999999999", 5, None)]
)
def test_range_gives_that_part(api: httpx2.Client, finished_job: str, wanted: str, start: int, end: int | None) -> None:
    whole = api.get(weights_url(finished_job)).content
    response = api.get(weights_url(finished_job), headers={"Range": wanted})
    assert response.status_code == 206
    assert response.content == whole[start:end]
    first = start % len(whole)
    assert response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(whole)}"


def test_interrupted_download_goes_on_only_with_the_same_file(api: httpx2.Client, finished_job: str) -> None:
    whole = api.get(weights_url(finished_job))
    same = api.get(weights_url(finished_job), headers={"Range": "bytes=10-", "If-Range": whole.headers["etag"]})
    other = api.get(weights_url(finished_job), headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert (same.status_code, same.content) == (206, whole.content[10:])
    assert (other.status_code, other.content) == (200, whole.content)


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0"])
def test_range_behind_the_end_is_a_problem(api: httpx2.Client, finished_job: str, wanted: str) -> None:
    response = api.get(weights_url(finished_job), headers={"Range": wanted})
    problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"].startswith("bytes */")


@pytest.mark.parametrize(
    "wanted", ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=9-5", "bytes=" + "9" * 500 + "-", "bytes=0-,x"]
)
def test_malformed_range_is_ignored(api: httpx2.Client, finished_job: str, wanted: str) -> None:
    response = api.get(weights_url(finished_job), headers={"Range": wanted})
    assert response.status_code == 200
    assert len(response.content) == int(response.headers["content-length"])


def test_known_weights_are_not_sent_again(api: httpx2.Client, finished_job: str) -> None:
    etag = api.get(weights_url(finished_job)).headers["etag"]
    response = api.get(weights_url(finished_job), headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")


def test_head_of_weights_has_their_size(api: httpx2.Client, finished_job: str) -> None:
    response = api.head(weights_url(finished_job))
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(api.get(weights_url(finished_job)).content)


def test_damaged_weights_are_never_sent(api: httpx2.Client, server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.run(job_id)
    path = server.settings.data_dir / "artifacts" / "jobs" / job_id / "snapshots" / "0" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    server.services.predictor._loaded.clear()  # else another job's, of the same weights, answers from memory
    problem(api.get(weights_url(job_id)), 410, "artifact_lost")
    problem(api.post(f"/v1/ensembles/ens_{job_id[4:]}/predict", json={"inputs": [[1, 2, 3, 4]]}), 410, "artifact_lost")
    assert not path.exists(), "it is in the quarantine"
    problem(api.get(weights_url(job_id)), 410, "artifact_lost")


@pytest.mark.parametrize("snapshot_id", ["snap_", "snap_01JDEADBEEF0000000000000000_0", "snap_01JDEADBEEF0000000000000000_-1", "x", "%00"])
def test_unknown_snapshot_is_a_404(api: httpx2.Client, snapshot_id: str) -> None:
    problem(api.get(f"/v1/snapshots/{snapshot_id}"), 404, "not_found")
    problem(api.get(f"/v1/snapshots/{snapshot_id}/weights"), 404, "not_found")
