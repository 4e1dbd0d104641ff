"""The Open Inference Protocol (KServe and Triton, version 2): what an ensemble is as one of its models.

One input, named ``input``; outputs by the ensemble's task. Shapes: M members, B rows, C classes. Rows come first in every tensor, so that
clients that batch can split what they get: each member's answer is (B, M, C) here.
"""

import re
from typing import Any

import numpy as np

from clr.combination import EnsemblePrediction, RegressionPrediction
from clr.ensemble import Ensemble
from clr.targets import Task
from service.errors import Problem
from service.validation import shown

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "pytorch_safetensors"
INPUT = "input"
MEMBERS = "members"

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""The datatypes that an input may have. The protocol's other ones are texts (BYTES) and bfloat16, which numpy lacks."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def version_number(text: str) -> int:
    """The version that a path names.

    Raises:
        Problem: It is no whole number from 1 on.
    """
    if not _VERSION.fullmatch(text):
        raise Problem("not_found", f"versions are whole numbers from 1 on, got {shown(text)}: leave it out for the latest")
    return int(text)


def output_shapes(ensemble: Ensemble) -> dict[str, list[int]]:
    """The shapes of all outputs by name, with -1 for the rows. ``members`` is made only for who asks for it by name."""
    if ensemble.task is Task.REGRESSION:
        return {"value": [-1], "std": [-1], MEMBERS: [-1, ensemble.num_members]}
    num_classes = len(ensemble.class_names)
    return {
        "probabilities": [-1, num_classes],
        "label": [-1],
        "entropy": [-1],
        "mutual_information": [-1],
        "agreement": [-1],
        MEMBERS: [-1, ensemble.num_members, num_classes],
    }


def datatype_of(output: str) -> str:
    """The datatype of an output."""
    return "BYTES" if output == "label" else "FP32"


def model_document(name: str, ensemble: Ensemble, *, latest: int) -> Json:
    """The metadata of a model under the name that the client uses; ``latest`` is the number of its versions."""
    return {
        "name": name,
        "versions": [str(version) for version in range(1, latest + 1)],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *ensemble.input_shape]}],
        "outputs": [{"name": output, "datatype": datatype_of(output), "shape": shape} for output, shape in output_shapes(ensemble).items()],
    }


def output_values(output: str, prediction: EnsemblePrediction | RegressionPrediction, class_names: tuple[str, ...]) -> Array | list[str]:
    """The values of an output: a float32 array in row-major order, or the rows' labels."""
    match prediction, output:
        case EnsemblePrediction(), "label":
            return [class_names[label] for label in prediction.labels_B.tolist()]
        case EnsemblePrediction(), "members":
            assert prediction.member_probs_MBC is not None, "they were asked for"
            values = prediction.member_probs_MBC.transpose(0, 1)
        case RegressionPrediction(), "members":
            values = prediction.member_values_MB.T
        case EnsemblePrediction(), _:
            values = {
                "probabilities": prediction.probs_BC,
                "entropy": prediction.entropy_B,
                "mutual_information": prediction.mutual_information_B,
                "agreement": prediction.agreement_B,
            }[output]
        case RegressionPrediction(), _:
            values = {"value": prediction.value_B, "std": prediction.std_B}[output]
    return np.ascontiguousarray(values.numpy())
