"""A corpus of bodies that attack their parser: each gets its documented refusal soon, costs little memory, and holds up nobody else."""

import io
import itertools
import json
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import pytest

from service.json_bodies import DOCUMENT
from tests.service.conftest import Server, npz_bytes, upload

MIB = 1 << 20
SECONDS = 5.0
MEMORY_BYTES = 300 * MIB
"""A prediction may have 64 MiB of JSON, which the test and the server both hold here."""

JSON = {"Content-Type": "application/json"}
OCTETS = {"Content-Type": "application/octet-stream", "X-Shape": "9" * 18 + ",4", "X-Dtype": "float64"}
X = np.arange(40, dtype=np.float32).reshape(20, 2)
Y = np.arange(20) % 2


@dataclass(frozen=True)
class Attack:
    """A body with the refusal that it deserves."""

    path: str
    body: bytes
    status: int
    code: str
    headers: dict[str, str] = field(default_factory=lambda: JSON)


def names(count: int) -> str:
    return ",".join(f'"k{index}":1' for index in range(count))


def filled(start: bytes, item: bytes, end: bytes, *, size_bytes: int) -> bytes:
    """A body of about this size that repeats an item."""
    return start + item * (size_bytes // len(item)) + end


JOBS, PREDICT, INFER = "/v1/jobs", "/v1/ensembles/{ensemble}/predict", "/v2/models/{ensemble}/infer"
LARGE, WIDE = MIB - 100, 60 * MIB
TEXTS = b'["' + b"x" * MIB + b'"' + b',"x"' * 4000 + b"]"
"""As an array of numpy's 16 GiB: each text takes as much room as the longest."""

TENSOR = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":'
ATTACKS: dict[str, Attack] = {
    "a key that stands twice after 9,000 others": Attack(JOBS, f'{{{names(9000)},"k8999":1}}'.encode(), 400, "malformed_json"),
    "85,000 unknown fields": Attack(JOBS, f"{{{names(85_000)}}}".encode(), 413, "too_large"),
    "9,000 unknown fields": Attack(JOBS, f"{{{names(9000)}}}".encode(), 422, "validation_error"),
    "a name of a megabyte": Attack(JOBS, json.dumps({"s" * (LARGE - 20): 1}).encode(), 422, "validation_error"),
    "500,000 wrong members": Attack("/v1/ensembles", filled(b'{"members":[', b"1,", b"1]}", size_bytes=LARGE - 20), 413, "too_large"),
    "9,000 wrong members": Attack("/v1/ensembles", filled(b'{"members":[', b"1,", b"1]}", size_bytes=18_000), 422, "validation_error"),
    "9,000 wrong sizes": Attack(
        JOBS, filled(b'{"dataset_id":"x","model":{"params":{"hidden":[', b'"",', b"1]}}}", size_bytes=27_000), 422, "validation_error"
    ),
    "100,000 levels": Attack(JOBS, b"[" * 100_000, 413, "too_large"),
    "9,000 levels": Attack(JOBS, b'{"a":' * 9000 + b"1" + b"}" * 9000, 400, "malformed_json"),
    "an integer of a million digits": Attack(JOBS, b'{"seed":' + b"9" * 1_000_000 + b"}", 400, "malformed_json"),
    "NaN": Attack(JOBS, b'{"seed":NaN}', 400, "malformed_json"),
    "a number beyond float64": Attack(JOBS, b'{"seed":1e999}', 422, "validation_error"),
    "half a surrogate pair": Attack(JOBS, b'{"name":"\\ud800"}', 400, "malformed_json"),
    "half a surrogate pair as a name": Attack(JOBS, b'{"\\udfff":1}', 400, "malformed_json"),
    "overlong UTF-8": Attack(JOBS, b'{"name":"\xc0\x80"}', 400, "malformed_json"),
    "UTF-16": Attack(JOBS, '{"name":"x"}'.encode("utf-16"), 400, "malformed_json"),
    "UTF-7 by its charset": Attack(JOBS, b"{}", 415, "unsupported_media_type", {"Content-Type": "application/json; charset=utf-7"}),
    "a byte order mark": Attack(JOBS, b"\xef\xbb\xbf{}", 400, "malformed_json"),
    "gzip": Attack(JOBS, b"\x1f\x8b" + bytes(50), 415, "unsupported_media_type", JSON | {"Content-Encoding": "gzip"}),
    "two documents": Attack(JOBS, b"{}{}", 400, "malformed_json"),
    "20 million empty lists": Attack(PREDICT, filled(b'{"inputs":[', b"[],", b"[]]}", size_bytes=WIDE), 413, "too_large"),
    "20 million empty objects": Attack(PREDICT, filled(b'{"instances":[', b"{},", b"{}]}", size_bytes=WIDE), 413, "too_large"),
    "16 million texts": Attack(PREDICT, filled(b'{"inputs":[', b'"a",', b"1]}", size_bytes=WIDE), 413, "too_large"),
    "30 million numbers": Attack(PREDICT, filled(b'{"inputs":[', b"1,", b"1]}", size_bytes=WIDE), 413, "too_large"),
    "400,000 empty lists": Attack(PREDICT, filled(b'{"inputs":[', b"[],", b"[]]}", size_bytes=1_200_000), 413, "too_large"),
    "8,000 nested lists of 60 levels": Attack(
        PREDICT, filled(b'{"inputs":[', b"[" * 60 + b"]" * 60 + b",", b"[]]}", size_bytes=121 * 8000), 422, "validation_error"
    ),
    "integers of 4,000 digits": Attack(
        PREDICT, filled(b'{"inputs":[', b"9" * 4000 + b",", b"1]}", size_bytes=8 * MIB), 422, "validation_error"
    ),
    "a long text among many": Attack(PREDICT, b'{"inputs":' + TEXTS + b"}", 422, "validation_error"),
    "a tensor with a long text among many": Attack(INFER, TENSOR + TEXTS + b"}]}", 422, "validation_error"),
    "a tensor of 30 million numbers": Attack(INFER, filled(TENSOR + b"[", b"1,", b"1]}]}", size_bytes=WIDE), 413, "too_large"),
    "a tensor of 4 million numbers": Attack(INFER, filled(TENSOR + b"[", b"1,", b"1]}]}", size_bytes=7_900_000), 422, "validation_error"),
    "a tensor of 9,000 levels": Attack(INFER, TENSOR + b"[" * 9000 + b"]" * 9000 + b"}]}", 400, "malformed_json"),
    "raw bytes that claim more": Attack(
        PREDICT,
        bytes(8),
        422,
        "validation_error",
        OCTETS,
    ),
    "an npy header that asks for 32 GiB": Attack(
        PREDICT,
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (4, 1073741824), }".ljust(117) + b"\n",
        400,
        "malformed_body",
        {"Content-Type": "application/x-npy"},
    ),
}


def resident_bytes() -> int:
    """Memory of this process, in which the server runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@contextmanager
def watched(api: httpx2.Client) -> Iterator[None]:
    """Asserts that the block is quick, takes little memory at its highest, and lets others be answered meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory counts from here on
    before, began, slowest = resident_bytes(), time.monotonic(), 0.0
    is_over = threading.Event()

    def neighbour() -> None:
        nonlocal slowest
        with httpx2.Client(base_url=api.base_url, timeout=60, trust_env=False) as client:
            while not is_over.is_set():
                sent = time.monotonic()
                assert client.get("/livez").status_code == 200
                slowest = max(slowest, time.monotonic() - sent)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        yield
    finally:
        seconds = time.monotonic() - began
        is_over.set()
        thread.join()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert 1024 * int(status["VmHWM"].split()[0]) - before < MEMORY_BYTES
    assert seconds < SECONDS
    assert slowest < SECONDS


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused_soon_and_cheaply(api: httpx2.Client, finished_job: str, name: str) -> None:
    attack = ATTACKS[name]
    path = attack.path.format(ensemble=f"ens_{finished_job[4:]}")
    with watched(api):
        response = api.post(path, content=attack.body, headers=attack.headers)
    assert (response.status_code, response.json()["code"]) == (attack.status, attack.code), response.text[:500]
    assert len(response.content) < 64 * 1024


def test_the_largest_documents_that_make_sense_are_within_the_budget(api: httpx2.Client) -> None:
    body = {"metadata": {f"k{index}": '[{,"' * 20 for index in range(16)}, "model": {"params": {"hidden": [8] * 64}}}
    DOCUMENT.check(json.dumps(body).encode())
    rows = b'{"inputs":[' + b",".join([b"[" + b",".join([b"0.123"] * 784) + b"]"] * 1000) + b"]}"
    answer = api.post("/v1/ensembles/ens_01M84K9HDDAJZAD5F3E26JSCXC/predict", content=rows, headers=JSON)
    assert answer.json()["code"] == "not_found", "784,000 numbers were not too many"


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x.npy")
    info.external_attr = 0o120777 << 16
    return info


def many_members(count: int) -> bytes:
    """An archive whose directory alone would take half a kilobyte of memory for each member."""
    entry = b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count % 65536, count % 65536, len(entry) * count, 0, 0)
    return entry * count + end


def lying_zip64() -> bytes:
    """An archive whose zip64 record claims an endless directory."""
    data = npz_bytes(x=X, y=Y)
    start = data.rindex(b"PK\x05\x06")
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, 2**62, 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, start, 1)
    return data[:start] + record + locator + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def encrypted() -> bytes:
    data = bytearray(npz_bytes(x=X, y=Y))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def overlapping() -> bytes:
    """Two names for the same compressed bytes, as the better bombs have it."""
    data = bytearray(zipped(("x.npy", npy(X)), ("y.npy", npy(X)), method=zipfile.ZIP_STORED))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = bytes(4)
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def archives() -> dict[str, bytes]:
    return {
        "80,000 members": many_members(80_000),
        "a zip64 record that lies": lying_zip64(),
        "an encrypted member": encrypted(),
        "two members in the same bytes": overlapping(),
        "a link": zipped((link(), b"/etc/passwd"), ("y.npy", npy(Y))),
        "a path upwards": zipped(("../x.npy", npy(X)), ("y.npy", npy(Y))),
        "an absolute path": zipped(("/x.npy", npy(X)), ("y.npy", npy(Y))),
        "an archive in the archive": zipped(("x.npy", npz_bytes(x=X, y=Y)), ("y.npy", npy(Y))),
        "a bomb": zipped(("x.npy", npy(np.zeros((30 * MIB, 1), np.uint8))), ("y.npy", npy(Y))),
        "another packing": zipped(("x.npy", npy(X)), ("y.npy", npy(Y)), method=zipfile.ZIP_LZMA),
    }


TABLES = {
    "a line of 3 MB of commas": b"a,b\n1,x\n" + b"," * (3 * MIB),
    "a quote that never ends": b'a,b\n1,x\n"' + b"1,2\n" * 700_000,
    "a million empty rows": b"a,b,c\n" + b",,\n" * 1_000_000,
    "10,001 columns": b",".join(b"c%d" % index for index in range(10_001)) + b"\n",
    "the same name at the end of 10,000": b",".join(b"c%d" % min(index, 9998) for index in range(10_000)) + b"\n" + b"1," * 9999 + b"1\n",
    "lines that end in nothing but returns": b"a,b\r" + b"1,x\r" * 700_000,
    "a NUL": b"a,b\n1,\0\n",
    "a byte order mark within": "a,b\n\ufeff1,x\n2,y\n3,x\n".encode(),
    "UTF-16": "a,b\n1,x\n".encode("utf-16"),
    "Latin-1": "a,b\n1,ä\n".encode("latin-1"),
    "half a surrogate pair": b"a,b\n1,\xed\xa0\x80\n",
    "a name that is a formula for its target": b"a,b\n1,\n",
}


@pytest.mark.parametrize("name", archives())
def test_hostile_archive_is_refused_soon_and_cheaply(api: httpx2.Client, server: Server, name: str) -> None:
    content = archives()[name]
    with watched(api):
        response = upload(api, content)
    assert (response.status_code, response.json()["code"]) == (422, "dataset_invalid"), response.text[:500]
    assert list((server.settings.staging_dir / "uploads").iterdir()) == []


@pytest.mark.parametrize("name", TABLES)
def test_hostile_table_is_refused_soon_and_cheaply(api: httpx2.Client, server: Server, name: str) -> None:
    with watched(api):
        response = upload(api, TABLES[name], "data.csv", target="b")
    assert (response.status_code, response.json()["code"]) == (422, "dataset_invalid"), response.text[:500]
    assert len(response.content) < 16 * 1024
    assert list((server.settings.staging_dir / "uploads").iterdir()) == []


FORM = "multipart/form-data; boundary=x"
FORMS = {
    "no boundary": ("multipart/form-data", b""),
    "a boundary of 300 bytes": (f"multipart/form-data; boundary={'x' * 300}", b""),
    "another boundary in the body": (FORM, b"--y\r\n\r\n--y--\r\n"),
    "no end": (FORM, b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nabc'),
    "a part without a name": (FORM, b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
    "a part header of a megabyte": (FORM, b"--x\r\nA: " + b"b" * MIB + b"\r\n\r\na\r\n--x--\r\n"),
    "a thousand part headers": (FORM, b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\na\r\n--x--\r\n"),
    "a hundred parts": (
        FORM,
        b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\na\r\n' % index for index in range(100)) + b"--x--\r\n",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_hostile_form_is_refused_soon_and_cheaply(api: httpx2.Client, server: Server, name: str) -> None:
    content_type, body = FORMS[name]
    with watched(api):
        response = api.post("/v1/datasets", content=body, headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_body"), response.text[:500]
    assert list((server.settings.staging_dir / "uploads").iterdir()) == []


def test_what_is_refused_leaves_the_service_as_it_was(api: httpx2.Client, finished_job: str) -> None:
    for attack in itertools.islice(ATTACKS.values(), 8):
        api.post(attack.path.format(ensemble=f"ens_{finished_job[4:]}"), content=attack.body, headers=attack.headers)
    assert upload(api, npz_bytes(x=X, y=Y)).status_code == 201
