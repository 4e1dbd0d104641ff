"""The Open Inference Protocol over HTTP: metadata, health, JSON and binary tensors, and what is refused."""

import gzip
import json
import struct
import zlib
from typing import Any

import httpx2
import numpy as np
import pytest

from service.oip_requests import HEAD_LENGTH
from tests.service.conftest import Server, Trained, Worker, problem
from tests.service.test_predictions import train_other

Json = dict[str, Any]
NAMES = ["probabilities", "label", "entropy", "mutual_information", "agreement"]


@pytest.fixture(scope="module")
def ensemble_id(finished_job: str) -> str:
    return f"ens_{finished_job[4:]}"


@pytest.fixture(scope="module")
def model(ensemble_id: str) -> str:
    return f"/v2/models/{ensemble_id}"


@pytest.fixture(scope="module")
def expected(api: httpx2.Client, ensemble_id: str, trained: Trained) -> Json:
    """What /v1 answers to the first two rows."""
    answer: Json = api.post(f"/v1/ensembles/{ensemble_id}/predict?members=true", json={"inputs": trained.x[:2].tolist()}).json()
    return answer


def tensor(**changed: Any) -> Json:
    """A request with one row of four ones, with these members in place of its tensor's own; None leaves one out."""
    members = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 1.0, 1.0, 1.0], **changed}
    return {"inputs": [{name: value for name, value in members.items() if value is not None}]}


def binary(document: Json, rest: bytes) -> Json:
    """Arguments of a request with bytes behind its JSON."""
    head = json.dumps(document).encode()
    return {"content": head + rest, "headers": {HEAD_LENGTH: str(len(head))}}


def test_server_describes_itself_and_is_live_and_ready(api: httpx2.Client) -> None:
    version = api.get("/openapi.json").json()["info"]["version"]
    assert api.get("/v2").json() == {"name": "snapcycle", "version": version, "extensions": ["binary_tensor_data"]}
    assert api.get("/v2/health/live").json() == {"live": True}
    assert api.get("/v2/health/ready").json() == {"ready": True}


def test_model_describes_its_tensors_and_versions(api: httpx2.Client, model: str, ensemble_id: str) -> None:
    document = api.get(model).json()
    assert document == {
        "name": ensemble_id,
        "versions": ["1", "2", "3"],
        "platform": "pytorch_safetensors",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "entropy", "datatype": "FP32", "shape": [-1]},
            {"name": "mutual_information", "datatype": "FP32", "shape": [-1]},
            {"name": "agreement", "datatype": "FP32", "shape": [-1]},
            {"name": "members", "datatype": "FP32", "shape": [-1, 3, 3]},
        ],
    }
    second = api.get(f"{model}/versions/2").json()
    assert second["outputs"].pop() == {"name": "members", "datatype": "FP32", "shape": [-1, 2, 3]}
    assert second["versions"] == ["1", "2", "3"]
    assert api.get(f"{model}/ready").json() == {"name": ensemble_id, "ready": True}
    assert api.get(f"{model}/versions/1/ready").json() == {"name": ensemble_id, "ready": True}


@pytest.mark.parametrize("version", ["0", "4", "01", "-1", "1.0", "%C2%B2", "x", "9999999999"])
def test_version_that_is_none_is_not_found(api: httpx2.Client, model: str, version: str) -> None:
    for suffix in ("", "/ready"):
        document = problem(api.get(f"{model}/versions/{version}{suffix}"), 404, "not_found")
        assert document["error"] == document["detail"]


def test_json_answer_is_what_v1_predicts(api: httpx2.Client, model: str, ensemble_id: str, expected: Json, trained: Trained) -> None:
    body = tensor(shape=[2, 4], data=trained.x[:2].tolist()) | {"id": 'a "b": c'}
    answer = api.post(f"{model}/infer", json=body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-ensemble"] == f"{ensemble_id}@3"
    document = answer.json()
    outputs = document.pop("outputs")
    assert document == {"model_name": ensemble_id, "model_version": "3", "id": 'a "b": c'}
    assert [(output["name"], output["datatype"], output["shape"]) for output in outputs] == [
        ("probabilities", "FP32", [2, 3]),
        ("label", "BYTES", [2]),
        *((name, "FP32", [2]) for name in NAMES[2:]),
    ]
    rows = expected["predictions"]
    found = {output["name"]: output["data"] for output in outputs}
    np.testing.assert_allclose(found["probabilities"], np.ravel([row["probabilities"] for row in rows]), atol=1e-6)
    assert found["label"] == [row["label"] for row in rows]
    for name in NAMES[2:]:
        np.testing.assert_allclose(found[name], [row["uncertainty"][name] for row in rows], atol=1e-6)


def test_binary_answer_has_the_outputs_one_after_the_other(api: httpx2.Client, model: str, expected: Json, trained: Trained) -> None:
    body = tensor(shape=[2, 4], data=None, parameters={"binary_data_size": 32}) | {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "label"}, {"name": "entropy", "parameters": {"binary_data": False}}, {"name": "members"}],
    }
    answer = api.post(f"{model}/versions/3/infer", **binary(body, trained.x[:2].tobytes()))
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[HEAD_LENGTH])
    label, entropy, members = json.loads(answer.content[:length])["outputs"]
    rest, rows = answer.content[length:], expected["predictions"]
    labels = b"".join(struct.pack("<I", len(row["label"])) + row["label"].encode() for row in rows)
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(labels)}}
    assert "parameters" not in entropy
    np.testing.assert_allclose(entropy["data"], [row["uncertainty"]["entropy"] for row in rows], atol=1e-6)
    assert members == {"name": "members", "datatype": "FP32", "shape": [2, 3, 3], "parameters": {"binary_data_size": 72}}
    assert rest[: len(labels)] == labels
    found = np.frombuffer(rest[len(labels) :], "<f4").reshape(2, 3, 3)
    np.testing.assert_allclose(found, [row["members"] for row in rows], atol=1e-6)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        *((f"{kind}{bits}", [3, 0, 1, 2]) for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)),
        *((f"FP{bits}", [0.5, -1, 2, 3.25]) for bits in (16, 32, 64)),
        ("BOOL", [True, False, True, True]),
    ],
)
def test_every_datatype_means_the_same_as_json_and_as_bytes(api: httpx2.Client, model: str, datatype: str, data: list[Any]) -> None:
    kind = {"B": "?", "U": "<u", "I": "<i", "F": "<f"}[datatype[0]]
    width = "" if datatype == "BOOL" else str(int("".join(filter(str.isdigit, datatype))) // 8)
    content = np.array(data, kind + width).tobytes()
    flat = api.post(f"{model}/infer", json=tensor(datatype=datatype, data=data))
    nested = api.post(f"{model}/infer", json=tensor(datatype=datatype, data=[data]))
    as_bytes = api.post(
        f"{model}/infer", **binary(tensor(datatype=datatype, data=None, parameters={"binary_data_size": len(content)}), content)
    )
    assert flat.status_code == 200, flat.text
    reference = api.post(f"{model}/infer", json=tensor(data=[float(value) for value in data])).json()
    assert flat.json() == nested.json() == as_bytes.json() == reference


@pytest.mark.parametrize(
    ("changed", "pointer", "said"),
    [
        ({"name": "inputs"}, "#/inputs/0/name", "only input is 'input'"),
        ({"name": None}, "#/inputs/0/name", "got null"),
        ({"datatype": "BYTES"}, "#/inputs/0/datatype", "must be one of BOOL, UINT8"),
        ({"datatype": "fp32"}, "#/inputs/0/datatype", "must be one of"),
        ({"datatype": ["FP32"]}, "#/inputs/0/datatype", "must be one of"),
        ({"data": [1.0] * 3}, "#/inputs/0/data", "takes 4 numbers, got the shape [3]"),
        ({"data": [[1.0, 1.0], [1.0, 1.0]]}, "#/inputs/0/data", "takes 4 numbers, got the shape [2, 2]"),
        ({"data": [[1.0, 1.0], [1.0]]}, "#/inputs/0/data", "must be numbers"),
        ({"data": 1.0}, "#/inputs/0/data", "must be numbers"),
        ({"data": ["1", "1", "1", "1"]}, "#/inputs/0/data", "must be numbers"),
        ({"data": [{"a": 1}]}, "#/inputs/0/data", "must be numbers"),
        ({"data": [1.0, True, 1.0, 1.0]}, "#/inputs/0/data", "FP32 takes numbers"),
        ({"datatype": "INT8", "data": [1, 2, 3, 128]}, "#/inputs/0/data", "INT8 takes -128 to 127, got 1 to 128"),
        ({"datatype": "UINT8", "data": [1, 2, 3, -1]}, "#/inputs/0/data", "UINT8 takes 0 to 255, got -1 to 3"),
        ({"datatype": "INT32", "data": [1, 2, 3, 4.0]}, "#/inputs/0/data", "takes whole numbers"),
        ({"datatype": "BOOL", "data": [1, 0, 1, 0]}, "#/inputs/0/data", "takes true and false"),
        ({"data": None}, "#/inputs/0", "exactly one of data and the parameter binary_data_size, got neither"),
        ({"parameters": {"binary_data_size": 16}}, "#/inputs/0", "got both"),
        ({"parameters": {"content_type": "np"}}, "#/inputs/0/parameters/content_type", "unknown field"),
        ({"data": None, "parameters": {"binary_data_size": -1}}, "#/inputs/0/parameters/binary_data_size", "a number of bytes"),
        ({"data": None, "parameters": {"binary_data_size": True}}, "#/inputs/0/parameters/binary_data_size", "a number of bytes"),
        ({"data": None, "parameters": {"binary_data_size": 2**60}}, "#/inputs/0/parameters/binary_data_size", "takes 16 bytes"),
        ({"extra": 1}, "#/inputs/0/extra", "unknown field"),
    ],
)
def test_wrong_tensor_is_named(api: httpx2.Client, model: str, changed: Json, pointer: str, said: str) -> None:
    document = problem(api.post(f"{model}/infer", json=tensor(**changed)), 422, "validation_error")
    assert [error["pointer"] for error in document["errors"]] == [pointer]
    assert said in document["errors"][0]["detail"]
    assert document["error"].startswith(f"{pointer}: {document['errors'][0]['detail']}"), "also for clients of the protocol"


@pytest.mark.parametrize("shape", [None, [], [4], [1, 5], [1, 4, 1], [-1, 4], [1.0, 4], [True, 4], ["1", 4], [2**64, 4], [[1], 4], "1,4"])
def test_shape_that_is_not_the_model_s_is_refused(api: httpx2.Client, model: str, shape: Any) -> None:
    document = problem(api.post(f"{model}/infer", json=tensor(shape=shape)), 422, "shape_mismatch")
    assert document["errors"][0]["pointer"] == "#/inputs/0/shape"
    assert "must be [rows, 4]" in document["error"]


def test_no_rows_and_numbers_beyond_float32_are_refused(api: httpx2.Client, model: str) -> None:
    assert "at least one row" in problem(api.post(f"{model}/infer", json=tensor(shape=[0, 4], data=[])), 422, "shape_mismatch")["error"]
    for body in (tensor(data=[1e39, 0, 0, 0]), tensor(datatype="FP16", data=[1e5, 0, 0, 0])):
        assert "finite" in problem(api.post(f"{model}/infer", json=body), 422, "shape_mismatch")["error"]


@pytest.mark.parametrize(
    ("outputs", "pointer"),
    [
        ("label", "#/outputs"),
        ([{"name": "logits"}], "#/outputs/0/name"),
        ([{"name": ["label"]}], "#/outputs/0/name"),
        ([{"name": "label"}, {"name": "label"}], "#/outputs/1/name"),
        ([{}], "#/outputs/0/name"),
        (["label"], "#/outputs/0"),
        ([{"name": "label", "parameters": {"classification": 2}}], "#/outputs/0/parameters/classification"),
        ([{"name": "label", "parameters": {"binary_data": 1}}], "#/outputs/0/parameters/binary_data"),
        ([{"name": "label", "shape": [1]}], "#/outputs/0/shape"),
    ],
)
def test_wrong_output_is_named(api: httpx2.Client, model: str, outputs: Any, pointer: str) -> None:
    document = problem(api.post(f"{model}/infer", json=tensor() | {"outputs": outputs}), 422, "validation_error")
    assert [error["pointer"] for error in document["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], "#"),
        ({}, "#/inputs"),
        ({"inputs": []}, "#/inputs"),
        ({"inputs": tensor()["inputs"] * 2}, "#/inputs"),
        ({"inputs": [None]}, "#/inputs/0"),
        (tensor() | {"id": 42}, "#/id"),
        (tensor() | {"parameters": {"priority": 1}}, "#/parameters/priority"),
        (tensor() | {"parameters": []}, "#/parameters"),
        (tensor() | {"instances": []}, "#/instances"),
    ],
)
def test_wrong_request_is_named(api: httpx2.Client, model: str, body: Any, pointer: str) -> None:
    document = problem(api.post(f"{model}/infer", json=body), 422, "validation_error")
    assert [error["pointer"] for error in document["errors"]] == [pointer]


@pytest.mark.parametrize(
    "text", ["", "{", "[NaN]", '{"inputs":[],"inputs":[]}', '{"id":"\\ud800"}', '{"inputs":[{"name":"a","name":"b"}]}']
)
def test_what_is_no_strict_json_is_refused(api: httpx2.Client, model: str, text: str) -> None:
    problem(api.post(f"{model}/infer", content=text), 400, "malformed_json")


def test_bytes_and_lengths_must_agree(api: httpx2.Client, model: str) -> None:
    body = tensor(data=None, parameters={"binary_data_size": 16})
    for rest in (bytes(15), bytes(17), b""):
        document = problem(api.post(f"{model}/infer", **binary(body, rest)), 422, "validation_error")
        assert f"takes 16 bytes, but {len(rest)} follow" in document["error"]
    assert (
        "takes 16 bytes, got 15"
        in api.post(f"{model}/infer", **binary(tensor(data=None, parameters={"binary_data_size": 15}), bytes(15))).text
    )
    assert "no tensor has" in api.post(f"{model}/infer", **binary(tensor(), b"x")).text
    wide = tensor(shape=[2**62, 4], data=None, parameters={"binary_data_size": 16})
    assert "takes 73786976294838206464 bytes, got 16" in api.post(f"{model}/infer", **binary(wide, bytes(16))).text
    boolean = tensor(datatype="BOOL", data=None, parameters={"binary_data_size": 4})
    assert "BOOL takes bytes of 0 and 1" in api.post(f"{model}/infer", **binary(boolean, b"\0\1\2\0")).text


@pytest.mark.parametrize("length", ["0", "-1", "x", "1e2", "99999", "9" * 30, "²".encode(), "16, 16"])
def test_wrong_length_of_the_json_is_refused(api: httpx2.Client, model: str, length: Any) -> None:
    response = api.post(f"{model}/infer", content=json.dumps(tensor()), headers={HEAD_LENGTH: length})
    document = problem(response, 422, "validation_error")
    assert document["errors"][0]["parameter"] == HEAD_LENGTH
    assert document["error"].startswith(f"{HEAD_LENGTH}: must be")


def test_other_media_types_and_encodings_are_refused(api: httpx2.Client, model: str) -> None:
    for name, value in (("Content-Type", "text/plain"), ("Content-Encoding", "br")):
        document = problem(api.post(f"{model}/infer", content=b"{}", headers={name: value}), 415, "unsupported_media_type")
        assert document["error"] == document["detail"]
    problem(api.post(f"{model}/infer", headers={"Content-Encoding": "br"}), 400, "malformed_json")


def test_compressed_bodies_are_unpacked_within_the_limit(api: httpx2.Client, model: str, server: Server) -> None:
    plain = json.dumps(tensor()).encode()
    expected = api.post(f"{model}/infer", content=plain).json()
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        headers = {"Content-Encoding": encoding}
        assert api.post(f"{model}/infer", content=pack(plain), headers=headers).json() == expected
        for broken, said in ((b"x" + pack(plain), "is not"), (pack(plain)[:-1], "is cut off"), (pack(plain) + b"x", "1 bytes follow")):
            document = problem(api.post(f"{model}/infer", content=broken, headers=headers), 400, "malformed_body")
            assert said in document["error"]
    bomb = gzip.compress(bytes(server.settings.max_predict_bytes + 1), 9)
    document = problem(api.post(f"{model}/infer", content=bomb, headers={"Content-Encoding": "gzip"}), 413, "too_large")
    assert document["limit_bytes"] == server.settings.max_predict_bytes


def test_large_inputs_are_read_and_answered_in_threads_up_to_the_limit(api: httpx2.Client, model: str) -> None:
    rows = np.ones((1000, 4), np.float64)
    body = tensor(shape=[1000, 4], datatype="FP64", data=None, parameters={"binary_data_size": rows.nbytes})
    body["outputs"] = [{"name": "members"}, {"name": "label", "parameters": {"binary_data": True}}]
    answer = api.post(f"{model}/infer", **binary(body, rows.tobytes()))
    members = json.loads(answer.content[: int(answer.headers[HEAD_LENGTH])])["outputs"][0]
    assert (members["shape"], len(members["data"])) == ([1000, 3, 3], 9000)
    too_many = tensor(shape=[1001, 4], data=[0.12345678901234567] * 4004)
    assert problem(api.post(f"{model}/infer", json=too_many), 413, "too_large")["limit_rows"] == 1000


def test_regression_answers_value_spread_and_members(api: httpx2.Client, server: Server, worker: Worker) -> None:
    model = f"/v2/models/ens_{train_other(api, server, worker)[4:]}"
    shapes = {output["name"]: output["shape"] for output in api.get(model).json()["outputs"]}
    assert shapes == {"value": [-1], "std": [-1], "members": [-1, 3]}
    body = tensor(shape=[2, 3], data=[0.1, 0.2, 0.3, 1, 1, 1])
    assert [output["name"] for output in api.post(f"{model}/infer", json=body).json()["outputs"]] == ["value", "std"]
    outputs = api.post(f"{model}/infer", json=body | {"outputs": [{"name": name} for name in shapes]}).json()["outputs"]
    value, std, members = (np.reshape(output["data"], output["shape"]) for output in outputs)
    np.testing.assert_allclose(value, members.mean(1), atol=1e-5)
    np.testing.assert_allclose(std, members.std(1), atol=1e-5)
    assert value[1] > value[0], "the target is the sum of the columns"


def test_alias_is_a_model_of_its_name(api: httpx2.Client, ensemble_id: str) -> None:
    assert api.put("/v1/aliases/oip-model", json={"ensemble_id": ensemble_id}).is_success
    assert api.get("/v2/models/oip-model").json()["name"] == "oip-model"
    answer = api.post("/v2/models/oip-model/infer", json=tensor())
    assert answer.json()["model_name"] == "oip-model"
    assert answer.headers["x-ensemble"] == f"{ensemble_id}@3"


def test_model_without_a_snapshot_is_not_ready(api: httpx2.Client, submit: Any) -> None:
    document = problem(api.get(f"/v2/models/ens_{submit()[4:]}/ready"), 409, "not_ready")
    assert document["error"] == document["detail"]


def test_only_these_paths_have_the_protocol_s_error(api: httpx2.Client) -> None:
    assert problem(api.get("/v2/nothing"), 404, "not_found")["error"]
    assert "error" not in problem(api.get("/v20"), 404, "not_found")
    assert "error" not in problem(api.get("/v1/nothing"), 404, "not_found")
