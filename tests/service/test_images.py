"""A picture is a row of a prediction, or is refused before its pixels are read."""

import io
import time
import zlib
from contextlib import suppress
from pathlib import Path

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.ensemble import Ensemble
from clr.snapshots import save_outputs, save_snapshot
from clr.training import CycleEnd, train
from service.errors import Problem
from service.images import read_image
from service.media import JPEG, PNG
from tests.service.conftest import TRAINING, Server, Trained, Worker, npz_bytes, problem, upload

SHAPE = (6, 5)


def picture(height: int = 6, width: int = 5, *, mode: str = "L", kind: str = "PNG") -> bytes:
    """A picture of noise."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, kind)
    return file.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened)


def png(width: int, height: int, data: bytes, *, colour: int = 0, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG file with any claims and any content."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, colour, 0, 0, 0))
    chunks = ((b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b""))
    parts = (len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refusal(body: bytes, media_type: str = PNG, shape: tuple[int, ...] = SHAPE) -> Problem:
    with pytest.raises(Problem) as caught:
        read_image(body, media_type, shape)
    return caught.value


@pytest.mark.parametrize(("mode", "shape"), [("L", (6, 5)), ("L", (6, 5, 1)), ("RGB", (6, 5, 3))])
def test_a_png_becomes_the_very_pixels(mode: str, shape: tuple[int, ...]) -> None:
    data = picture(mode=mode)
    row = read_image(data, PNG, shape)
    assert (row.shape, row.dtype) == ((1, *shape), np.uint8)
    np.testing.assert_array_equal(row.squeeze(), pixels_of(data))


def test_a_grey_picture_becomes_three_equal_channels() -> None:
    data = picture()
    np.testing.assert_array_equal(read_image(data, PNG, (6, 5, 3)), np.stack([pixels_of(data)] * 3, axis=-1)[None])


def test_a_jpeg_becomes_what_it_decodes_to() -> None:
    data = picture(mode="RGB", kind="JPEG")
    np.testing.assert_array_equal(read_image(data, JPEG, (6, 5, 3))[0], pixels_of(data))


HOSTILE: dict[str, tuple[bytes, str, str, str]] = {
    "nothing": (b"", PNG, "malformed_body", "no readable PNG"),
    "another format under this name": (picture(kind="JPEG"), PNG, "malformed_body", "no readable PNG"),
    "a format that is not taken": (picture(kind="GIF"), PNG, "malformed_body", "no readable PNG"),
    "a format that runs programs": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n", PNG, "malformed_body", "no readable PNG"),
    "cut short": (picture()[:-30], PNG, "malformed_body", "no readable PNG"),
    "a cut jpeg": (picture(mode="L", kind="JPEG")[:-200], JPEG, "malformed_body", "no readable JPEG"),
    "a decompression bomb": (png(60_000, 60_000, zlib.compress(bytes(1000))), PNG, "malformed_body", "exceeds limit"),
    "a claim of many pixels": (png(9000, 9000, zlib.compress(b"")), PNG, "shape_mismatch", "5 x 6 pixels, got 9000 x 9000"),
    "the largest claim": (png(2**31 - 1, 2**31 - 1, b""), PNG, "malformed_body", "exceeds limit"),
    "no pixels": (png(0, 0, b""), PNG, "malformed_body", "no readable PNG"),
    "too much data behind the right claim": (png(5, 6, zlib.compress(bytes(1 << 24))), PNG, "", ""),
    "a bomb in a text": (
        png(5, 6, zlib.compress(bytes(36)), extra=((b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27))),)),
        PNG,
        "malformed_body",
        "too large",
    ),
    "colour for grey": (picture(mode="RGB"), PNG, "shape_mismatch", "must be grey"),
    "transparency": (picture(mode="RGBA"), PNG, "shape_mismatch", "no transparency"),
    "print colours": (picture(mode="CMYK", kind="JPEG"), JPEG, "shape_mismatch", "must be grey"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_are_refused_in_words_soon(name: str) -> None:
    body, media_type, code, words = HOSTILE[name]
    began = time.thread_time()
    if code:
        found = refusal(body, media_type)
        assert (found.code, words in found.detail) == (code, True), found.detail
    else:
        assert read_image(body, media_type, SHAPE).max() == 0
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("shape", [(4,), (6, 5, 2), (2, 3, 4, 5)])
def test_other_rows_are_no_pictures(shape: tuple[int, ...]) -> None:
    assert "are no pictures" in refusal(picture(), shape=shape).detail


@settings(max_examples=300)
@given(st.sampled_from(["PNG", "JPEG"]), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12), st.integers(0, 99))
def test_damage_anywhere_is_refused_or_harmless(kind: str, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(picture(kind=kind))
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(Problem):
        row = read_image(bytes(data[: len(data) - cut]), PNG if kind == "PNG" else JPEG, SHAPE)
        assert (row.shape, row.dtype) == ((1, *SHAPE), np.uint8)


def test_an_ensemble_predicts_a_picture_as_it_predicts_the_array(api: httpx2.Client, server: Server, tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 256, (60, 6, 5), dtype=np.uint8)
    y = np.arange(60) % 2
    ends = [event for event in train(TrainingConfig.model_validate(TRAINING), Dataset.from_arrays(x, y)) if isinstance(event, CycleEnd)]
    for end in ends:
        save_snapshot(end.snapshot, tmp_path / f"weights-{end.cycle}.safetensors")
        save_outputs(end.snapshot, tmp_path / f"outputs-{end.cycle}.safetensors")
    trained = Trained(x, y, tuple(ends), tmp_path)
    dataset_id = upload(api, npz_bytes(x=x, y=y)).json()["id"]
    job_id = api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}).json()["id"]
    Worker(server, trained).run(job_id)
    data = picture()
    answer = api.post(f"/v1/ensembles/ens_{job_id[4:]}/predict", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    expected = Ensemble.load([trained.weights(cycle) for cycle in range(3)]).predict(pixels_of(data)[None])
    np.testing.assert_allclose(answer.json()["predictions"][0]["probabilities"], expected[0].numpy(), rtol=1e-5)


def test_a_picture_for_an_ensemble_of_numbers_is_refused(api: httpx2.Client, finished_job: str) -> None:
    response = api.post(f"/v1/ensembles/ens_{finished_job[4:]}/predict", content=picture(), headers={"Content-Type": "image/png"})
    assert "are no pictures" in problem(response, 422, "shape_mismatch")["detail"]
