"""Datasets over HTTP: what is made, and that nothing is left of what is refused."""

import io
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.service.conftest import Server, field_error, make_settings, npz_bytes, problem, upload, wait_until
from worker.artifacts import ArtifactStore, ArtifactUnavailable
from worker.dataset_store import delete_dataset
from worker.valkey_server import ValkeyServer

X = np.arange(40, dtype=np.float32).reshape(20, 2)
Y = np.arange(20) % 2
CSV = "width,colour,species\n" + "".join(f"{i}.5,{'red' if i % 3 else 'blue'},{'a' if i % 2 else 'b'}\n" for i in range(20))


def num_datasets(api: httpx2.Client) -> int:
    return len(api.get("/v1/datasets?limit=100").json()["data"])


def leftovers(server: Server) -> list[str]:
    """Files of uploads that are still there."""
    directory = server.settings.staging_dir / "uploads"
    return [path.name for path in directory.rglob("*")] if directory.exists() else []


def header(text: str) -> bytes:
    """An npy file that is only a header."""
    padded = text.ljust(118) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_npz_becomes_a_dataset(api: httpx2.Client) -> None:
    response = upload(api, npz_bytes(x=X, y=Y, x_test=X[:4], y_test=Y[:4]), name="points", metadata='{"team":"vision"}')
    assert response.status_code == 201
    made = response.json()
    assert response.headers["location"] == f"/v1/datasets/{made['id']}"
    assert (made["name"], made["status"], made["task"], made["rows"], made["test_rows"]) == ("points", "ready", "classification", 20, 4)
    assert made["metadata"] == {"team": "vision"}
    assert made["summary"]["classes"] == [{"name": "0", "rows": 10}, {"name": "1", "rows": 10}]
    assert api.get(response.headers["location"]).json() == made


def test_csv_becomes_a_dataset_with_columns(api: httpx2.Client) -> None:
    made = upload(api, CSV.encode(), "iris.csv", target="species").json()
    assert made["task"] == "classification"
    assert [column["name"] for column in made["summary"]["columns"]] == ["width", "colour"]
    preview = api.get(f"/v1/datasets/{made['id']}/preview").json()
    assert preview["targets"] == ["b", "a", "b", "a", "b"]
    assert preview["columns"] == ["width", "colour"]
    assert preview["inputs"][0] == [0.5, 1.0, 0.0]


def test_task_can_be_chosen(api: httpx2.Client) -> None:
    made = upload(api, npz_bytes(x=X, y=Y), task="regression").json()
    assert made["task"] == "regression"
    assert made["summary"]["target"] == {"min": 0.0, "mean": 0.5, "max": 1.0}


def test_builtin_dataset(api: httpx2.Client) -> None:
    response = api.post("/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}, "name": "digits"})
    assert response.status_code == 201
    assert response.json()["rows"] == 1797
    assert response.json()["summary"]["input_shape"] == [8, 8]


def test_same_content_has_the_same_hash_whatever_its_name(api: httpx2.Client) -> None:
    one, two = (upload(api, npz_bytes(x=X, y=Y), name=name).json() for name in ("one", "two"))
    assert one["id"] != two["id"]
    assert one["sha256"] == two["sha256"]


def test_list_goes_on_after_an_id(api: httpx2.Client) -> None:
    made = [upload(api, npz_bytes(x=X, y=Y)).json()["id"] for _ in range(3)]
    page = api.get("/v1/datasets?limit=2").json()
    assert [item["id"] for item in page["data"]] == [made[2], made[1]]
    assert (page["object"], page["has_more"], page["first_id"], page["last_id"]) == ("list", True, made[2], made[1])
    assert api.get(f"/v1/datasets?limit=1&after={made[1]}").json()["data"][0]["id"] == made[0]
    assert [item["id"] for item in api.get(f"/v1/datasets?order=asc&after={made[0]}").json()["data"]] == made[1:]


def test_idempotency_key_makes_one_dataset(api: httpx2.Client) -> None:
    files = {"file": ("data.npz", npz_bytes(x=X, y=Y))}
    first, second = (api.post("/v1/datasets", files=files, headers={"Idempotency-Key": "upload-1"}) for _ in range(2))
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    other = api.post("/v1/datasets", files={"file": ("data.npz", npz_bytes(x=X + 1, y=Y))}, headers={"Idempotency-Key": "upload-1"})
    assert first.json()["id"] in problem(other, 422, "idempotency_mismatch")["detail"]


def test_key_of_a_deleted_dataset_makes_a_new_one(api: httpx2.Client) -> None:
    files, headers = {"file": ("data.npz", npz_bytes(x=X, y=Y))}, {"Idempotency-Key": "upload-2"}
    made = []
    for _ in range(3):
        first, again = (api.post("/v1/datasets", files=files, headers=headers) for _ in range(2))
        assert (first.status_code, first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (201, None, "true")
        assert first.json()["id"] == again.json()["id"]
        made.append(first.json()["id"])
        assert api.delete(f"/v1/datasets/{made[-1]}").status_code == 204
    assert len(set(made)) == 3


class Unwilling(ArtifactStore):
    """Loses its connection at the last object of a folder."""

    def delete(self, key: str) -> None:
        if key.endswith(("manifest.json", "weights.safetensors")):
            raise ArtifactUnavailable(f"{key}: the connection was lost")
        super().delete(key)


def test_deletion_that_failed_half_way_can_be_repeated(api: httpx2.Client, server: Server, tmp_path: Path) -> None:
    artifacts = server.services.artifacts
    dataset_id = upload(api, npz_bytes(x=X, y=Y)).json()["id"]
    with pytest.raises(ArtifactUnavailable):
        delete_dataset(Unwilling.open(server.settings.artifacts_url), dataset_id)
    assert artifacts.list_names(f"datasets/{dataset_id}") == ["manifest.json"]
    assert api.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert dataset_id not in artifacts.list_names("datasets")


def test_deleted_dataset_is_gone(api: httpx2.Client) -> None:
    dataset_id = upload(api, npz_bytes(x=X, y=Y)).json()["id"]
    response = api.delete(f"/v1/datasets/{dataset_id}")
    assert (response.status_code, response.content) == (204, b"")
    for answer in (
        api.get(f"/v1/datasets/{dataset_id}"),
        api.delete(f"/v1/datasets/{dataset_id}"),
        api.get(f"/v1/datasets/{dataset_id}/preview"),
    ):
        problem(answer, 404, "not_found")


def test_dataset_of_a_job_cannot_be_deleted(api: httpx2.Client, dataset_id: str, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert job_id in problem(api.delete(f"/v1/datasets/{dataset_id}"), 409, "in_use")["used_by"]


NAN_ROW = np.where(np.arange(40).reshape(20, 2) == 21, np.nan, X)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "not a zip": (b"hello", "npz"),
    "empty npz": (b"", "npz"),
    "truncated npz": (npz_bytes(x=X, y=Y)[:200], "npz"),
    "flipped bytes": (npz_bytes(x=X, y=Y).replace(X.tobytes()[:32], b"\xff" * 32), "crc"),
    "no y": (npz_bytes(x=X), "'y'"),
    "NaN": (npz_bytes(x=NAN_ROW, y=Y), "nan"),
    "beyond float32": (npz_bytes(x=X.astype(np.float64) * 1e300, y=Y), "float32"),
    "labels do not fit": (npz_bytes(x=X, y=Y[:19]), "20 rows, got 19"),
    "one class": (npz_bytes(x=X, y=np.zeros(20, int)), "different labels"),
    "text inputs": (npz_bytes(x=np.array([["a"]] * 20), y=Y), "numbers"),
    "no rows": (npz_bytes(x=X[:0], y=Y[:0]), "(0, 2)"),
    "pickled objects": (npz_bytes(x=np.array([[print, {}]] * 20, dtype=object), y=Y), "object"),
    "header asks for 32 GiB": (archive(x=header("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 1)}"), y=npy(Y)), "bytes"),
    "header with a call": (
        archive(x=header("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,)}"), y=npy(Y)),
        "header",
    ),
    "header beyond the file": (archive(x=b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", y=npy(Y)), "header"),
    "bomb": (archive(x=npy(np.zeros((10_000_000, 1), np.uint8)), y=npy(Y)), "times"),
    "stranger": (npz_bytes(x=X, y=Y, z=Y), "'z.npy'"),
    "negative shape": (archive(x=header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}"), y=npy(Y)), "header"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_npz_is_refused_and_nothing_is_kept(api: httpx2.Client, server: Server, name: str) -> None:
    content, part = BAD_FILES[name]
    before = num_datasets(api)
    document = problem(upload(api, content), 422, "dataset_invalid")
    (error,) = document["errors"]
    assert error["pointer"] in ("#/file", "#/task")
    assert part.lower() in document["detail"].lower()
    assert ": " in document["detail"], "the remedy follows a colon"
    assert num_datasets(api) == before
    assert leftovers(server) == []


BAD_TABLES = {
    "not UTF-8": (b"a,species\n1,\xff\n", "UTF-8"),
    "NUL": (b"a,species\n1,\0\n", "NUL"),
    "empty": (b"", "empty"),
    "no header": (b"1,2\n3,4\n", "name the columns"),
    "missing cell": (b"a,species\n1,x\n,y\n", "row 2, column 'a'"),
    "NaN": (b"a,species\n1,x\nnan,y\n", "row 2, column 'a'"),
    "ragged": (b"a,species\n1,x\n2,y,z\n", "row 2 has 3 cells"),
    "wrong number": (b"a,species\n1,x\n2,y\n3,x\nabc,y\n", "row 4, column 'a'"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_csv_is_refused_by_row_and_column(api: httpx2.Client, server: Server, name: str) -> None:
    content, part = BAD_TABLES[name]
    before = num_datasets(api)
    document = problem(upload(api, content, "bad.csv", target="species"), 422, "dataset_invalid")
    assert part in document["detail"]
    assert num_datasets(api) == before
    assert leftovers(server) == []


def test_unknown_target_lists_the_columns(api: httpx2.Client) -> None:
    document = problem(upload(api, CSV.encode(), "iris.csv", target="specis"), 422, "dataset_invalid")
    assert document["errors"][0]["pointer"] == "#/target"
    assert "width, colour, species" in document["detail"]
    assert "'species'?" in document["detail"]


@pytest.mark.parametrize(
    ("fields", "filename", "place"),
    [
        ({}, "iris.csv", "#/target"),
        ({"target": "y"}, "data.npz", "#/target"),
        ({"task": "clustering"}, "data.npz", "#/task"),
        ({"nmae": "x"}, "data.npz", "#/nmae"),
        ({"name": "x" * 201}, "data.npz", "#/name"),
        ({"name": "x" * 20_000}, "data.npz", "#/name"),
        ({"metadata": '{"a": 1}'}, "data.npz", "#/metadata/a"),
        ({"metadata": "[]"}, "data.npz", "#/metadata"),
        ({}, "data.txt", "#/file"),
        ({}, "../../etc/passwd", "#/file"),
    ],
)
def test_bad_form_field_is_named(api: httpx2.Client, server: Server, fields: dict[str, str], filename: str, place: str) -> None:
    error = field_error(upload(api, npz_bytes(x=X, y=Y), filename, **fields), place)
    assert error["detail"]
    assert leftovers(server) == []


def test_form_without_a_file_is_refused(api: httpx2.Client) -> None:
    assert "missing" in field_error(api.post("/v1/datasets", files={"name": (None, "x")}), "#/file")["detail"]


def test_form_with_two_files_is_refused(api: httpx2.Client) -> None:
    files = [("file", ("a.npz", b"1")), ("file", ("b.npz", b"2"))]
    field_error(api.post("/v1/datasets", files=files), "#/file")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"--x\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\nabc',
        b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n",
        b"--x\r\n" + b"A" * 10_000 + b": b\r\n\r\n\r\n--x--\r\n",
        b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--x--\r\n",
        b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n' % i for i in range(100)) + b"--x--\r\n",
    ],
)
def test_broken_form_is_refused(api: httpx2.Client, server: Server, body: bytes) -> None:
    response = api.post("/v1/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    problem(response, 400, "malformed_body")
    assert leftovers(server) == []


def test_form_without_a_boundary_is_refused(api: httpx2.Client) -> None:
    problem(api.post("/v1/datasets", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "malformed_body")


def test_field_that_is_not_utf8_is_named(api: httpx2.Client) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--\r\n'
    field_error(api.post("/v1/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}), "#/name")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"source": {"type": "builtin", "name": "digit"}}, "#/source/name"),
        ({"source": {"type": "url", "name": "digits"}}, "#/source/type"),
        ({}, "#/source"),
        ({"source": {"type": "builtin", "name": 3}}, "#/source/name"),
    ],
)
def test_bad_builtin_request_is_named(api: httpx2.Client, body: dict[str, Any], place: str) -> None:
    field_error(api.post("/v1/datasets", json=body), place)


@pytest.mark.parametrize("query", ["after=x", "after=job_01JDEADBEEF0000000000000000", "before=x", "limit=0"])
def test_bad_list_query_is_named(api: httpx2.Client, query: str) -> None:
    field_error(api.get(f"/v1/datasets?{query}"), query.partition("=")[0])


def test_what_an_upload_unpacks_to_is_bounded_by_a_setting_of_its_own(valkey: ValkeyServer, tmp_path: Path) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, x=np.tile(np.arange(40, dtype=np.uint8), (1000, 1)), y=np.arange(1000) % 2)
    table = b"colour,species\n" + b"".join(b"c%d,s%d\n" % (row % 50, row % 2) for row in range(500))  # 500 rows x 50 x 4 bytes
    for limit, status in ((48_255, 422), (120_000, 201)):
        settings = make_settings(valkey, tmp_path, max_dataset_bytes=limit)
        with Server(settings) as running, httpx2.Client(base_url=running.url, trust_env=False) as api:
            responses = [upload(api, packed.getvalue()), upload(api, table, "t.csv", target="species")]
            assert [response.status_code for response in responses] == [status, status]
            assert api.get("/v1/capabilities").json()["limits"]["max_dataset_bytes"] == limit
            if status == 422:
                assert "more than 48255" in problem(responses[0], 422, "dataset_invalid")["detail"]
                assert "at most 48255 bytes, got 100000" in problem(responses[1], 422, "dataset_invalid")["detail"]


def test_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n' + b"z" * 3_000_000
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 4000000\r\n\r\n"
        )
        connection.sendall(start)
        wait_until(lambda: leftovers(server) != [])
    wait_until(lambda: leftovers(server) == [])


def test_damaged_file_of_a_dataset_is_noticed(api: httpx2.Client, server: Server) -> None:
    made = upload(api, npz_bytes(x=X + 7, y=Y)).json()
    path = server.settings.data_dir / "artifacts" / "datasets" / made["id"] / "data.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problem(api.get(f"/v1/datasets/{made['id']}/preview"), 410, "artifact_lost")
