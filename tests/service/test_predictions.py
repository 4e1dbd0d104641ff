"""Predictions over HTTP are those of clr.ensemble, from the first snapshot on."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
import pytest

from clr.config import TrainingConfig
from clr.ensemble import Ensemble, EnsemblePrediction
from clr.snapshots import save_outputs, save_snapshot
from clr.training import CycleEnd, train
from service.batcher import Pass, Timed
from service.ensembles import Members
from service.predictions import plain_prediction_json
from service.predictor import MAX_UNDER_WAY
from tests.service.conftest import (
    TRAINING,
    Array,
    Server,
    Trained,
    Worker,
    field_error,
    make_settings,
    npz_bytes,
    problem,
    upload,
)
from worker.valkey_server import ValkeyServer

Submit = Callable[..., str]
Json = dict[str, Any]
NPY = {"Content-Type": "application/x-npy"}


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def ensemble_of(job_id: str) -> str:
    return job_id.replace("job_", "ens_")


def predict_url(job_id: str) -> str:
    return f"/v1/ensembles/{ensemble_of(job_id)}/predict"


def own_prediction(trained: Trained, num_members: int, x: Array) -> EnsemblePrediction:
    ensemble = Ensemble.load([trained.weights(cycle) for cycle in range(num_members)])
    prediction = ensemble.predict_with_uncertainty(x, with_members=True)
    assert isinstance(prediction, EnsemblePrediction)
    return prediction


def probabilities(response: httpx2.Response) -> Array:
    assert response.status_code == 200, response.text
    return np.array([row["probabilities"] for row in response.json()["predictions"]])


def test_ensemble_answers_from_the_first_snapshot_on_and_grows(
    api: httpx2.Client, submit: Submit, worker: Worker, trained: Trained
) -> None:
    job_id = submit()
    body = {"inputs": trained.x[:7].tolist()}
    assert problem(api.post(predict_url(job_id), json=body), 409, "not_ready")["job_id"] == job_id
    worker.claim(job_id)
    problem(api.post(predict_url(job_id), json=body), 409, "not_ready")
    seen = []
    for members in (1, 2, 3):
        worker.snapshot(job_id, members - 1)
        response = api.post(predict_url(job_id), json=body)
        answer = response.json()
        assert (answer["ensemble_version"], answer["members_used"]) == (members, members)
        assert response.headers["x-ensemble"] == f"{ensemble_of(job_id)}@{members}"
        np.testing.assert_allclose(probabilities(response), own_prediction(trained, members, trained.x[:7]).probs_BC.numpy(), atol=1e-6)
        seen.append(answer["predictions"][0]["probabilities"])
    assert seen[0] != seen[1] != seen[2]


def test_version_pins_the_members(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    response = api.post(predict_url(finished_job) + "?version=1", json={"inputs": trained.x[:2].tolist()})
    assert response.json()["ensemble_version"] == 1
    np.testing.assert_allclose(probabilities(response), own_prediction(trained, 1, trained.x[:2]).probs_BC.numpy(), atol=1e-6)
    problem(api.post(predict_url(finished_job) + "?version=4", json={"inputs": [[0, 0, 0, 0]]}), 404, "not_found")


def test_all_forms_of_a_body_say_the_same(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    url, x = predict_url(finished_job), trained.x
    expected = own_prediction(trained, 3, x).probs_BC.numpy()
    raw = {"Content-Type": "application/octet-stream", "X-Shape": "120,4"}
    answers = [
        api.post(url, json={"inputs": x.tolist()}),
        api.post(url, content=npy(x), headers=NPY),
        api.post(url, content=npy(np.asfortranarray(x)), headers=NPY),
        api.post(url, content=npy(x.astype(">f8")), headers=NPY),
        api.post(url, content=x.tobytes(), headers={**raw, "X-Dtype": "float32"}),
        api.post(url, content=x.astype("<f8").tobytes(), headers={**raw, "X-Dtype": "float64"}),
    ]
    for answer in answers:
        np.testing.assert_allclose(probabilities(answer), expected, atol=1e-6)


def test_answer_has_labels_and_uncertainty(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    answer = api.post(predict_url(finished_job), json={"inputs": trained.x[:5].tolist()}).json()
    expected = own_prediction(trained, 3, trained.x[:5])
    for index, row in enumerate(answer["predictions"]):
        label = int(expected.labels_B[index])
        assert row["label"] == str(label)
        assert row["probability"] == pytest.approx(float(expected.probs_BC[index, label]), abs=1e-6)
        assert row["uncertainty"] == pytest.approx(
            {
                "entropy": float(expected.entropy_B[index]),
                "mutual_information": float(expected.mutual_information_B[index]),
                "agreement": float(expected.agreement_B[index]),
            },
            abs=1e-6,
        )
    assert set(answer["timing_ms"]) == {"queue", "compute", "total"}


def test_members_say_what_each_says(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    answer = api.post(predict_url(finished_job) + "?members=true", json={"inputs": trained.x[:4].tolist()}).json()
    found = np.array([row["members"] for row in answer["predictions"]])
    expected = own_prediction(trained, 3, trained.x[:4]).member_probs_MBC
    assert expected is not None
    np.testing.assert_allclose(found, expected.numpy().swapaxes(0, 1), atol=1e-6)


def test_numbers_are_written_as_short_as_float32_allows(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    answer = api.post(predict_url(finished_job) + "?members=true", json={"inputs": trained.x.tolist()})
    texts: list[str] = []
    json.loads(answer.text, parse_float=texts.append)
    numbers = texts[:-3]  # without the times
    assert len(numbers) >= 120 * (3 + 1 + 3 + 9)
    assert [text for text in numbers if float(text) != float(str(np.float32(text)))] == []


def test_long_answer_is_that_of_its_rows(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    rows = np.tile(trained.x, (8, 1))
    answer = api.post(predict_url(finished_job) + "?members=true", content=npy(rows), headers=NPY).json()
    single = api.post(predict_url(finished_job) + "?members=true", content=npy(trained.x), headers=NPY).json()
    assert len(answer["predictions"]) == 960
    np.testing.assert_allclose(
        [row["members"] for row in answer["predictions"]], np.tile([row["members"] for row in single["predictions"]], (8, 1, 1)), atol=1e-6
    )


def test_answer_with_too_many_numbers_is_refused_with_the_rows_allowed(
    valkey: ValkeyServer, tmp_path: Path, trained: Trained, finished_job: str, server: Server
) -> None:
    settings = make_settings(valkey, tmp_path, artifacts=server.settings.artifacts_url, max_predict_values=1000, max_predict_rows=400)
    with Server(settings) as small, httpx2.Client(base_url=small.url, trust_env=False) as api:
        url = predict_url(finished_job)
        rows = np.zeros((334, 4), np.float32)
        assert api.post(url, content=npy(rows[:333]), headers=NPY).status_code == 200
        refused = problem(api.post(url, content=npy(rows), headers=NPY), 413, "too_large")
        assert "at most 1000 numbers, got 334 rows x 3 classes = 1002: send at most 333 rows at a time" in refused["detail"]
        assert (refused["limit_rows"], refused["limit_values"]) == (333, 1000)
        members = problem(api.post(url + "?members=true", content=npy(rows[:112]), headers=NPY), 413, "too_large")
        assert "112 rows x 3 classes x 3 members = 1008: send at most 111 rows at a time, or leave out members" in members["detail"]
        assert api.post(url + "?members=true", content=npy(rows[:111]), headers=NPY).status_code == 200
        too_many = problem(api.post(url, content=npy(np.zeros((401, 4))), headers=NPY), 413, "too_large")
        assert "at most 400 rows, got 401" in too_many["detail"]
        assert too_many["limit_rows"] == 333
        assert api.get("/v1/capabilities").json()["limits"]["max_predict_values"] == 1000


def test_escaped_name_of_the_field_is_no_repetition(api: httpx2.Client, finished_job: str) -> None:
    for body in (b'{"\\u0069nputs": [[1, 2, 3, 4]]}', b'{"inputs" : [[1, 2, 3, 4]]}'):
        assert api.post(predict_url(finished_job), content=body, headers={"Content-Type": "application/json"}).status_code == 200
    for body in (b'{"inputs": [[1,2,3,4]], "\\u0069nputs": [[1,2,3,4]]}', b'{"inputs": [["\\"inputs\\"", "inputs", 3, 4]]}'):
        response = api.post(predict_url(finished_job), content=body, headers={"Content-Type": "application/json"})
        assert ("twice" in response.text) == (body.count(b"nputs") == 2), response.text
        assert response.status_code in (400, 422)


def test_top_k_names_the_likeliest_classes(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    answer = api.post(predict_url(finished_job) + "?top_k=2", json={"inputs": trained.x[:4].tolist()}).json()
    expected = own_prediction(trained, 3, trained.x[:4]).probs_BC.numpy()
    for row, probs in zip(answer["predictions"], expected, strict=True):
        best = np.argsort(-probs)[:2]
        assert [entry["label"] for entry in row["top_k"]] == [str(label) for label in best]
        assert [entry["probability"] for entry in row["top_k"]] == pytest.approx(probs[best].tolist(), abs=1e-6)
        assert "probabilities" not in row


def test_npy_answer_is_the_bare_matrix(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    response = api.post(predict_url(finished_job), content=npy(trained.x), headers={**NPY, "Accept": "application/x-npy"})
    assert response.headers["content-type"] == "application/x-npy"
    found = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, own_prediction(trained, 3, trained.x).probs_BC.numpy(), atol=1e-6)


def test_whole_numbers_are_inputs_too(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    response = api.post(predict_url(finished_job), json={"inputs": [[1, 2, 3, 4]]})
    expected = own_prediction(trained, 3, np.array([[1, 2, 3, 4]], np.float32)).probs_BC.numpy()
    np.testing.assert_allclose(probabilities(response), expected, atol=1e-6)


BAD_JSON: list[tuple[str, int, str, str]] = [
    ("", 400, "malformed_json", "empty"),
    ('{"inputs": [[1, 2, 3, NaN]]}', 400, "malformed_json", "NaN is not JSON"),
    ('{"inputs": [[1, 2, 3, Infinity]]}', 400, "malformed_json", "Infinity"),
    ('{"inputs": [[1,2,3,4]], "inputs": [[1,2,3,4]]}', 400, "malformed_json", "twice"),
    ("[" * 100_000, 400, "malformed_json", "levels"),
    ('{"inputs": ' + "[" * 2000 + "]" * 2000 + "}", 400, "malformed_json", "levels"),
    ("[[1, 2, 3, 4]]", 422, "validation_error", "must be a JSON object"),
    ("{}", 422, "validation_error", "exactly one"),
    ('{"input": [[1,2,3,4]]}', 422, "validation_error", "unknown field"),
    ('{"inputs": [[1,2,3,4]], "instances": []}', 422, "validation_error", "exactly one"),
    ('{"inputs": "abc"}', 422, "validation_error", '"abc"'),
    ('{"inputs": [[1,2,3,4],[1,2]]}', 422, "validation_error", "different lengths"),
    ('{"inputs": [[1,2,3,"4"]]}', 422, "validation_error", 'got "4"'),
    ('{"inputs": [[1,2,3,null]]}', 422, "validation_error", "got null"),
    ('{"inputs": [[true,true,true,true]]}', 422, "validation_error", "got true"),
    ('{"inputs": [[1,2,3,{}]]}', 422, "validation_error", "got {}"),
    ('{"inputs": [[1,2,3,%s]]}' % ("9" * 60), 422, "shape_mismatch", "row 0"),
    ('{"inputs": [[1,2,3,1e39]]}', 422, "shape_mismatch", "row 0"),
    ('{"inputs": [[1,2,3,1e999]]}', 422, "validation_error", "64-bit float"),
    ('{"inputs": [[1,2,3]]}', 422, "shape_mismatch", "(rows, 4)"),
    ('{"inputs": [1,2,3,4]}', 422, "shape_mismatch", "(rows, 4)"),
    ('{"inputs": []}', 422, "shape_mismatch", "at least one row"),
    ('{"instances": [{"a": 1}]}', 422, "validation_error", "no columns"),
    (json.dumps({"inputs": [[0, 0, 0, 0]] * 1001}), 413, "too_large", "1001"),
]


@pytest.mark.parametrize(("body", "status", "code", "part"), BAD_JSON, ids=[body[:40] for body, *_ in BAD_JSON])
def test_bad_json_inputs_are_refused(api: httpx2.Client, finished_job: str, body: str, status: int, code: str, part: str) -> None:
    response = api.post(predict_url(finished_job), content=body.encode(), headers={"Content-Type": "application/json"})
    document = problem(response, status, code)
    text = document["errors"][0]["detail"] if code == "validation_error" else document["detail"]
    assert part in text


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed_body"),
        (npy(np.zeros((2, 4)))[:-1], 400, "malformed_body"),
        (npy(np.zeros((2, 4))) + b"x", 400, "malformed_body"),
        (npy(np.zeros((2, 3))), 422, "shape_mismatch"),
        (npy(np.full((2, 4), np.nan)), 422, "shape_mismatch"),
        (npy(np.zeros((2, 4), complex)), 400, "malformed_body"),
        (npy(np.zeros((2, 4), "U3")), 422, "shape_mismatch"),
        (npy(np.float32(3)), 422, "shape_mismatch"),
        (
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(117) + b"\n",
            400,
            "malformed_body",
        ),
        (
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9)}".ljust(117) + b"\n",
            400,
            "malformed_body",
        ),
    ],
)
def test_bad_npy_is_refused(api: httpx2.Client, finished_job: str, content: bytes, status: int, code: str) -> None:
    problem(api.post(predict_url(finished_job), content=content, headers=NPY), status, code)


@pytest.mark.parametrize(
    ("shape", "dtype", "place"),
    [
        (None, "float32", "X-Shape"),
        ("2;4", "float32", "X-Shape"),
        ("-2,4", "float32", "X-Shape"),
        ("3,4", "float32", "X-Shape"),
        ("99999999999999999,99999999999999999", "float32", "X-Shape"),
        ("1," * 9 + "1", "float32", "X-Shape"),
        ("2,4", None, "X-Dtype"),
        ("2,4", "object", "X-Dtype"),
        ("2,4", "float128", "X-Dtype"),
    ],
)
def test_bad_raw_body_names_its_header(api: httpx2.Client, finished_job: str, shape: str | None, dtype: str | None, place: str) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    headers |= {name: value for name, value in (("X-Shape", shape), ("X-Dtype", dtype)) if value is not None}
    field_error(api.post(predict_url(finished_job), content=bytes(2 * 4 * 4), headers=headers), place)


def test_other_media_types_are_refused(api: httpx2.Client, finished_job: str) -> None:
    response = api.post(predict_url(finished_job), content=b"x", headers={"Content-Type": "image/tiff"})
    assert "application/x-npy" in problem(response, 415, "unsupported_media_type")["detail"]
    problem(api.post(predict_url(finished_job), json={}, headers={"Accept": "image/png"}), 406, "not_acceptable")


@pytest.mark.parametrize("query", ["version=0", "top_k=0", "top_k=x", "members=maybe", "mode=cascade", "k=3"])
def test_bad_predict_query_is_named(api: httpx2.Client, finished_job: str, query: str) -> None:
    field_error(api.post(f"{predict_url(finished_job)}?{query}", json={"inputs": [[0, 0, 0, 0]]}), query.partition("=")[0])


def test_json_options_don_t_fit_an_npy_answer(api: httpx2.Client, finished_job: str) -> None:
    headers = {"Accept": "application/x-npy"}
    field_error(api.post(predict_url(finished_job) + "?members=true", json={"inputs": [[0, 0, 0, 0]]}, headers=headers), "members")


@pytest.mark.parametrize("ensemble_id", ["ens_01JDEADBEEF0000000000000000", "ens_x", "prod", "%00"])
def test_unknown_ensemble_is_a_404(api: httpx2.Client, ensemble_id: str) -> None:
    problem(api.post(f"/v1/ensembles/{ensemble_id}/predict", json={"inputs": [[0]]}), 404, "not_found")
    problem(api.get(f"/v1/ensembles/{ensemble_id}"), 404, "not_found")


def test_full_house_is_told_to_come_again(api: httpx2.Client, server: Server, finished_job: str) -> None:
    predictor = server.services.predictor
    predictor._under_way += MAX_UNDER_WAY
    try:
        response = api.post(predict_url(finished_job), json={"inputs": [[0, 0, 0, 0]]})
    finally:
        predictor._under_way -= MAX_UNDER_WAY
    assert problem(response, 503, "overloaded")["retryable"] is True
    assert response.headers["retry-after"] == "1"


def train_on(api: httpx2.Client, server: Server, worker: Worker, dataset_id: str) -> str:
    """Trains a real job's first snapshot and commits it."""
    job_id = str(api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}).json()["id"])
    dataset = server.services.datasets.load(dataset_id)
    assert dataset is not None
    ends = tuple(event for event in train(TrainingConfig.model_validate(TRAINING), dataset) if isinstance(event, CycleEnd))
    with TemporaryDirectory() as directory:
        for end in ends:
            save_snapshot(end.snapshot, Path(directory) / f"weights-{end.cycle}.safetensors")
            save_outputs(end.snapshot, Path(directory) / f"outputs-{end.cycle}.safetensors")
        own = Worker(server, replace(worker.trained, ends=ends, directory=Path(directory)))
        own.run(job_id)
    return job_id


def test_table_is_predicted_by_column_name(api: httpx2.Client, server: Server, worker: Worker) -> None:
    csv = "width,colour,species\n" + "".join(f"{i % 7}.5,{'red' if i % 3 else 'blue'},{'a' if i % 2 else 'b'}\n" for i in range(60))
    dataset_id = upload(api, csv.encode(), "table.csv", target="species").json()["id"]
    job_id = train_on(api, server, worker, dataset_id)
    url = predict_url(job_id)
    by_name = api.post(url, json={"instances": [{"width": 2.5, "colour": "red"}, {"colour": "blue", "width": 1}]})
    by_array = api.post(url, json={"inputs": [[2.5, 0.0, 1.0], [1.0, 1.0, 0.0]]})
    np.testing.assert_array_equal(probabilities(by_name), probabilities(by_array))
    assert by_name.json()["predictions"][0]["label"] in ("a", "b")
    for row, part in [
        ({"width": 1}, "lacks column 'colour'"),
        ({"width": 1, "colour": "red", "size": 1}, "unknown column 'size'"),
        ({"width": "wide", "colour": "red"}, "instance 0, column 'width'"),
        ({"width": 1, "colour": "rde"}, "did you mean 'red'"),
    ]:
        document = problem(api.post(url, json={"instances": [row]}), 422, "shape_mismatch")
        assert part in document["detail"]
        assert document["errors"][0]["pointer"] == "#/instances"
    not_rows: list[object] = [[], {}, [1], "x"]
    for instances in not_rows:
        field_error(api.post(url, json={"instances": instances}), "#/instances")
    repeated = b'{"instances": [{"width": 1, "width": 2, "colour": "red"}]}'
    problem(api.post(url, content=repeated, headers={"Content-Type": "application/json"}), 400, "malformed_json")
    mixed = [f"snap_{job_id[4:]}_0", f"snap_{train_other(api, server, worker)[4:]}_0"]
    assert "members must agree" in field_error(api.post("/v1/ensembles", json={"members": mixed}), "#/members")["detail"]


def train_other(api: httpx2.Client, server: Server, worker: Worker) -> str:
    random = np.random.default_rng(1)
    x = random.normal(size=(80, 3)).astype(np.float32)
    dataset_id = upload(api, npz_bytes(x=x, y=x.sum(1)), name="sums").json()["id"]
    return train_on(api, server, worker, dataset_id)


def test_regression_answers_values_with_their_spread(api: httpx2.Client, server: Server, worker: Worker) -> None:
    url = predict_url(train_other(api, server, worker))
    rows = [[0.1, 0.2, 0.3], [1, 1, 1]]
    answer = api.post(url + "?members=true", json={"inputs": rows}).json()
    for row in answer["predictions"]:
        assert set(row) == {"value", "std", "members"}
        assert row["value"] == pytest.approx(np.mean(row["members"]), abs=1e-5)
        assert row["std"] == pytest.approx(np.std(row["members"]), abs=1e-5)
    bare = api.post(url, json={"inputs": rows}, headers={"Accept": "application/x-npy"})
    np.testing.assert_allclose(np.load(io.BytesIO(bare.content)), [row["value"] for row in answer["predictions"]], atol=1e-6)


def test_ensembles_of_the_same_snapshots_keep_their_names_within_a_pass(trained: Trained) -> None:
    ensemble = Ensemble.load([trained.weights(cycle) for cycle in range(3)])
    company = Pass(ensemble.predict_with_uncertainty(trained.x[:3]))
    asked = [(Members("ens_a", 3, ()), 0, 1), (Members("ens_b", 3, ()), 1, 3), (Members("ens_a", 4, ()), 2, 3)]
    answers = [
        json.loads(plain_prediction_json(members, ensemble, Timed(company, start, end, 0.001, 0.0025), begun=time.perf_counter()))
        for members, start, end in asked
    ]
    assert [(each["ensemble_id"], each["ensemble_version"]) for each in answers] == [("ens_a", 3), ("ens_b", 3), ("ens_a", 4)]
    assert [len(each["predictions"]) for each in answers] == [1, 2, 1]
    assert answers[1]["predictions"][1] == answers[2]["predictions"][0] != answers[0]["predictions"][0]
    assert {**answers[0]["timing_ms"], "total": None} == {"queue": 1.0, "compute": 2.5, "total": None}
