"""Whatever is sent, the answer is one that the API documents, and never a 5xx."""

import copy
import json
from typing import Any
from urllib.parse import quote

import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.problem_kinds import PROBLEMS
from tests.service.conftest import TRAINING

Json = dict[str, Any]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "mlp", "\ud800", "\x00", "../x", 1e308, -0.0, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(response: httpx2.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert PROBLEMS[response.json()["code"]].status == response.status_code


def places(document: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    found = [path]
    if isinstance(document, dict):
        for name, value in document.items():
            found += places(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += places(value, (*path, index))
    return found


def put(document: Json, path: tuple[Any, ...], value: object) -> object:
    """The document with another value at a place."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    place: Any = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return changed


@fuzz
@given(data=st.data(), value=values)
def test_any_value_at_any_place_of_a_job(api: httpx2.Client, dataset_id: str, data: st.DataObject, value: object) -> None:
    body = {"dataset_id": dataset_id, "name": "x", "metadata": {"a": "b"}, "optimizer": {"type": "adamw", "eps": 1e-8}, **TRAINING}
    changed = put(body, data.draw(st.sampled_from(places(body))), value)
    check(api.post("/v1/jobs?dry_run=true", content=json.dumps(changed), headers={"Content-Type": "application/json"}))


@fuzz
@given(values)
def test_any_document_at_every_post(api: httpx2.Client, finished_job: str, value: object) -> None:
    paths = ["/v1/jobs", "/v1/datasets", "/v1/schedules/preview", "/v1/ensembles", f"/v1/jobs/{finished_job}/stop"]
    for path in [*paths, f"/v1/ensembles/ens_{finished_job[4:]}/predict", f"/v2/models/ens_{finished_job[4:]}/infer"]:
        check(api.post(path, content=json.dumps(value), headers={"Content-Type": "application/json"}))


@fuzz
@given(values)
def test_any_inputs(api: httpx2.Client, finished_job: str, value: object) -> None:
    url = f"/v1/ensembles/ens_{finished_job[4:]}/predict"
    for name in ("inputs", "instances"):
        check(api.post(url, content=json.dumps({name: value}), headers={"Content-Type": "application/json"}))


@fuzz
@given(data=st.data(), value=values)
def test_any_value_at_any_place_of_an_inference(api: httpx2.Client, finished_job: str, data: st.DataObject, value: object) -> None:
    tensor = {"name": "input", "shape": [1, 2, 2], "datatype": "INT8", "parameters": {"binary_data_size": 4}, "data": [1, 2, 3, 4]}
    body = {"id": "1", "inputs": [tensor], "outputs": [{"name": "label", "parameters": {"binary_data": True}}], "parameters": {}}
    changed = json.dumps(put(body, data.draw(st.sampled_from(places(body))), value)).encode()
    headers = data.draw(st.sampled_from([{}, {"Inference-Header-Content-Length": str(len(changed) - 4)}]))
    check(api.post(f"/v2/models/ens_{finished_job[4:]}/infer", content=changed, headers=headers))


@fuzz
@given(
    st.binary(max_size=300),
    st.sampled_from(["application/json", "application/x-npy", "application/octet-stream", "multipart/form-data; boundary=x"]),
)
def test_any_bytes_under_any_type(api: httpx2.Client, finished_job: str, body: bytes, content_type: str) -> None:
    headers = {"Content-Type": content_type, "X-Shape": "2,4", "X-Dtype": "uint8"}
    for path in ("/v1/jobs", "/v1/datasets", "/v1/ensembles", f"/v1/ensembles/ens_{finished_job[4:]}/predict"):
        check(api.post(path, content=body, headers=headers))


@fuzz
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_path_and_query(api: httpx2.Client, word: str, query: str) -> None:
    for template in ("/v1/jobs/{}", "/v1/snapshots/{}/weights", "/v1/datasets/{}", "/v1/ensembles/{}", "/problems/{}", "/{}"):
        check(api.get(template.format(quote(word, safe="")), params={query: word, "after": query}))
