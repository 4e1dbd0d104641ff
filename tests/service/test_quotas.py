"""What one tenant may have, and what a network may cost: refused with the figure, the limit and the remedy, before anything is made."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from clr.config import OptimizerConfig, SgdConfig, TrainingConfig
from clr.memory import training_bytes
from clr.model_config import MlpConfig, MlpParams
from service.errors import Problem
from service.memory_pressure import MemoryGauge
from tests.service.conftest import TRAINING, Server, Trained, npz_bytes, problem, upload
from tests.service.keyed_service import RANGE_TEST, STUDY, KeyedService, keyed_service
from worker.job_store import JobStore
from worker.redis_connection import connect
from worker.valkey_server import ValkeyServer

DATASET_LIMIT = 6000


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    limits = {"max_queued_jobs": 2, "max_tenant_dataset_bytes": DATASET_LIMIT, "max_model_parameters": 5000}
    with keyed_service(tmp_path_factory.mktemp("quotas"), trained, **limits) as running:
        yield running


def test_a_tenant_has_so_many_waiting_jobs_and_another_its_own(service: KeyedService) -> None:
    a, b = service.tenants["a"], service.tenants["b"]
    body = {"dataset_id": a.dataset_id, **TRAINING}
    made = [a.api.post("/v1/jobs", json=body) for _ in range(3)]
    assert [response.status_code for response in made] == [202, 202, 429]
    document = problem(made[2], 429, "quota_exceeded")
    assert (document["queued_jobs"], document["limit_queued_jobs"]) == (2, 2)
    assert made[2].headers["retry-after"] == "60"
    other = b.api.post("/v1/jobs", json={"dataset_id": b.dataset_id, **TRAINING})
    assert other.status_code == 202
    a.api.post(f"/v1/jobs/{made[0].json()['id']}/cancel")
    last = a.api.post("/v1/jobs", json=body)
    assert last.status_code == 202
    for tenant, response in ((a, made[1]), (a, last), (b, other)):
        tenant.api.post(f"/v1/jobs/{response.json()['id']}/cancel")


def test_a_tenant_has_so_many_bytes_of_datasets(service: KeyedService) -> None:
    a = service.tenants["a"]
    content = npz_bytes(x=service.trained.x, y=service.trained.y)
    stored = sum(dataset["size_bytes"] for dataset in a.api.get("/v1/datasets").json()["data"])
    assert DATASET_LIMIT / 2 < stored < DATASET_LIMIT
    document = problem(upload(a.api, content), 429, "quota_exceeded")
    assert (document["stored_bytes"], document["limit_stored_bytes"]) == (stored, DATASET_LIMIT)
    assert len(a.api.get("/v1/datasets").json()["data"]) == 1, "nothing is kept of it"
    with service.client(service.key("c")) as api:
        made = upload(api, content)
        assert made.status_code == 201
        problem(upload(api, content), 429, "quota_exceeded")
        assert api.delete(f"/v1/datasets/{made.json()['id']}").status_code == 204
        again = upload(api, content)
        assert again.status_code == 201, "deleted bytes are free again"


@pytest.mark.parametrize("kind", ["train", "range_test", "study"])
def test_a_network_over_the_limit_is_refused_with_figure_limit_and_remedy(service: KeyedService, kind: str) -> None:
    a = service.tenants["a"]
    bodies = {
        "train": TRAINING,
        "range_test": RANGE_TEST,
        "study": STUDY,
    }
    model = {"architecture": "mlp", "params": {"hidden": [1000]}}
    response = a.api.post("/v1/jobs", json={**bodies[kind], "dataset_id": a.dataset_id, "model": model})
    document = problem(response, 422, "validation_error")
    parameters = 4 * 1000 + 1000 + 1000 * 3 + 3
    assert (document["parameters"], document["limit_parameters"]) == (parameters, 5000)
    (error,) = document["errors"]
    assert error["pointer"] == "#/model"
    assert str(parameters) in error["detail"]
    assert error["hint"] == "make it narrower or shallower"


def test_the_largest_network_that_can_be_asked_for_is_refused_at_once(api: httpx2.Client, dataset_id: str) -> None:
    model = {"architecture": "mlp", "params": {"hidden": [16_384] * 32}}
    response = api.post("/v1/jobs", json={**TRAINING, "dataset_id": dataset_id, "model": model})
    assert response.elapsed.total_seconds() < 5
    assert "8" in problem(response, 422, "validation_error")["errors"][0]["detail"]


def test_memory_is_estimated_by_the_layers() -> None:
    model = MlpConfig(architecture="mlp", params=MlpParams(hidden=(10,)))
    parameters = 4 * 10 + 10 + 10 * 3 + 3
    values_per_row = 4 + 4 + 10 + 10 + 3  # input, flattened, linear, relu, linear
    for optimizer, copies in ((SgdConfig(), 4), (_adamw(), 5)):
        estimate = training_bytes(model, optimizer, input_shape=(4,), num_outputs=3, batch_size=7)
        assert estimate == 4 * (copies * parameters + 2 * 7 * values_per_row)


def _adamw() -> OptimizerConfig:
    return TrainingConfig.model_validate({"optimizer": {"type": "adamw"}}).optimizer


def test_a_training_that_needs_too_much_memory_is_refused(server: Server, api: httpx2.Client, dataset_id: str) -> None:
    from service.model_costs import check_cost

    dataset = server.services.datasets.load(dataset_id)
    assert dataset is not None
    config = TrainingConfig.model_validate(TRAINING)
    need = training_bytes(config.model, config.optimizer, input_shape=(4,), num_outputs=3, batch_size=16)
    check_cost(server.settings.model_copy(update={"max_training_bytes": need}), config, dataset, num_parameters=67)
    with pytest.raises(Problem) as refused:
        check_cost(server.settings.model_copy(update={"max_training_bytes": need - 1}), config, dataset, num_parameters=67)
    assert refused.value.extra == {"memory_bytes": need, "limit_memory_bytes": need - 1}
    assert "smaller batch_size" in refused.value.detail


def test_submissions_stop_before_redis_is_full_and_the_log_warns_earlier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ValkeyServer(tmp_path) as valkey, connect(valkey.url) as client:
        store = JobStore(client)
        gauge = MemoryGauge(store)
        used = int(client.info("memory")["used_memory"])
        for share, is_alarmed, is_refused in ((0.3, False, False), (0.72, True, False), (0.9, True, True), (0.3, False, False)):
            client.config_set("maxmemory", int(used / share))
            caplog.clear()
            gauge.sample()
            assert gauge.ratio == pytest.approx(share, rel=0.08)
            if is_refused:
                with pytest.raises(Problem) as refused:
                    gauge.check()
                assert (refused.value.code, refused.value.headers["Retry-After"]) == ("overloaded", "5")
            else:
                gauge.check()
            assert gauge.is_alarmed is is_alarmed
            assert ("submissions are refused" in caplog.text) == (share == 0.72), "told once"
        client.config_set("maxmemory", 0)
        gauge.sample()
        assert gauge.ratio is None
        gauge.check()


def test_a_full_redis_turns_submissions_away_and_reads_go_on(server: Server, api: httpx2.Client, dataset_id: str) -> None:
    gauge = server.services.memory
    sample, gauge.sample = gauge.sample, lambda: None  # type: ignore[method-assign]  # the thread must not set it back
    try:
        gauge.ratio = 0.85
        response = api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING})
        problem(response, 503, "overloaded")
        assert response.headers["retry-after"] == "5"
        assert api.get("/v1/jobs").status_code == 200
    finally:
        gauge.sample = sample  # type: ignore[method-assign]
        gauge.sample()
