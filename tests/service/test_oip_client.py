"""Triton's own client, unchanged, against a running server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput  # type: ignore[import-untyped]  # has no types
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]  # has no types

from tests.service.conftest import Array, Server, Trained

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "open-inference-protocol.md"


@pytest.fixture
def triton(server: Server) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def model(finished_job: str) -> str:
    return f"ens_{finished_job[4:]}"


@pytest.fixture(scope="module")
def probabilities(api: httpx2.Client, model: str, trained: Trained) -> Array:
    """What /v1 answers to five rows."""
    rows = api.post(f"/v1/ensembles/{model}/predict", json={"inputs": trained.x[:5].tolist()}).json()["predictions"]
    return np.array([row["probabilities"] for row in rows])


def rows_of(trained: Trained, *, binary: bool = True) -> InferInput:
    tensor = InferInput("input", [5, 4], "FP32")
    tensor.set_data_from_numpy(trained.x[:5], binary_data=binary)
    return tensor


def test_client_finds_server_and_model(triton: InferenceServerClient, model: str) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert triton.is_model_ready(model)
    assert triton.is_model_ready(model, "2")
    assert not triton.is_model_ready(model, "4")
    assert not triton.is_model_ready("unknown")
    assert triton.get_model_metadata(model)["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert triton.get_model_metadata(model, "1")["versions"] == ["1", "2", "3"]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_client_infers_with_binary_tensors(
    triton: InferenceServerClient, model: str, trained: Trained, probabilities: Array, compression: str | None
) -> None:
    result = triton.infer(
        model,
        [rows_of(trained)],
        request_id="7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert result.get_response()["id"] == "7"
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, atol=1e-6)
    np.testing.assert_array_equal(result.as_numpy("label"), [str(label).encode() for label in probabilities.argmax(1)])
    assert result.as_numpy("agreement").shape == (5,)
    assert result.as_numpy("members") is None


def test_client_infers_with_json_and_chosen_outputs_of_a_version(
    triton: InferenceServerClient, model: str, trained: Trained, probabilities: Array
) -> None:
    wanted = [InferRequestedOutput("members", binary_data=False), InferRequestedOutput("label", binary_data=False)]
    wanted.append(InferRequestedOutput("probabilities"))
    result = triton.infer(model, [rows_of(trained, binary=False)], model_version="3", outputs=wanted)
    assert result.get_response()["model_version"] == "3"
    np.testing.assert_allclose(result.as_numpy("members").mean(1), probabilities, atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, atol=1e-6)
    assert [str(label) for label in result.as_numpy("label")] == [str(label) for label in probabilities.argmax(1)]
    assert result.as_numpy("entropy") is None


def test_client_shows_what_is_wrong(triton: InferenceServerClient, model: str, trained: Trained) -> None:
    with pytest.raises(InferenceServerException, match="the model has the outputs probabilities, label") as refused:
        triton.infer(model, [rows_of(trained)], outputs=[InferRequestedOutput("logits")])
    assert refused.value.status() == "422"
    with pytest.raises(InferenceServerException, match="there is no ensemble or alias 'unknown'"):
        triton.get_model_metadata("unknown")


def test_example_of_the_documentation_runs(
    server: Server, api: httpx2.Client, model: str, triton: InferenceServerClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert api.put("/v1/aliases/documented", json={"ensemble_id": model}).is_success
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("localhost:8000", f"127.0.0.1:{server.port}").replace('"prod"', '"documented"'), names)
    names["client"].close()
    zeros = InferInput("input", [2, 4], "FP32")
    zeros.set_data_from_numpy(np.zeros((2, 4), np.float32))
    expected = triton.infer(model, [zeros])
    assert api.delete("/v1/aliases/documented").is_success
    assert capsys.readouterr().out == f"{expected.as_numpy('probabilities')} {expected.as_numpy('label')}\n"
