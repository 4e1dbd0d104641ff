"""The answer to a prediction: what the ensemble says, as JSON or as a bare array.

Shapes: M members, B rows, C classes, K chosen classes.
"""

# ruff: noqa: N806  # names carry their shapes

import io
from typing import Any

import numpy as np

from clr.ensemble import Ensemble, EnsemblePrediction, RegressionPrediction
from service.ensembles import Members
from service.predictor import Timed
from service.request_schemas import PredictQuery

Json = dict[str, Any]
Array = np.ndarray[Any, Any]


def prediction_document(members: Members, ensemble: Ensemble, timed: Timed, query: PredictQuery, total_seconds: float) -> Json:
    """The JSON answer; probabilities stay arrays, which orjson writes itself."""
    match timed.prediction:
        case EnsemblePrediction() as prediction:
            rows = _classified(prediction, ensemble.class_names, query)
        case RegressionPrediction() as prediction:
            rows = _valued(prediction, query)
    return {
        "object": "prediction",
        "ensemble_id": members.ensemble_id,
        "ensemble_version": members.version,
        "members_used": ensemble.num_members,
        "predictions": rows,
        "timing_ms": {
            "queue": round(1000 * timed.queue_seconds, 3),
            "compute": round(1000 * timed.compute_seconds, 3),
            "total": round(1000 * total_seconds, 3),
        },
    }


def prediction_array(timed: Timed) -> bytes:
    """The mean probabilities (B, C), or the means (B,) of a regression, as one npy file."""
    match timed.prediction:
        case EnsemblePrediction() as prediction:
            values = prediction.probs_BC
        case RegressionPrediction() as prediction:
            values = prediction.value_B
    file = io.BytesIO()
    np.save(file, values.cpu().numpy(), allow_pickle=False)
    return file.getvalue()


def _classified(prediction: EnsemblePrediction, class_names: tuple[str, ...], query: PredictQuery) -> list[Json]:
    probs_BC: Array = np.ascontiguousarray(prediction.probs_BC.cpu().numpy())
    labels_B = prediction.labels_B.tolist()
    measures = zip(prediction.entropy_B.tolist(), prediction.mutual_information_B.tolist(), prediction.agreement_B.tolist(), strict=True)
    rows = [
        {
            "label": class_names[label],
            "probability": probs_C[label],
            "uncertainty": {"entropy": entropy, "mutual_information": mutual_information, "agreement": agreement},
        }
        for label, probs_C, (entropy, mutual_information, agreement) in zip(labels_B, probs_BC, measures, strict=True)
    ]
    if query.top_k is None:
        for row, probs_C in zip(rows, probs_BC, strict=True):
            row["probabilities"] = probs_C
    else:
        order_BK = np.argsort(-probs_BC, axis=1, kind="stable")[:, : query.top_k]
        for row, probs_C, order_K in zip(rows, probs_BC, order_BK, strict=True):
            row["top_k"] = [{"label": class_names[label], "probability": probs_C[label]} for label in order_K]
    if query.members:
        members_BMC = np.ascontiguousarray(prediction.member_probs_MBC.cpu().numpy().swapaxes(0, 1))
        for row, members_MC in zip(rows, members_BMC, strict=True):
            row["members"] = members_MC
    return rows


def _valued(prediction: RegressionPrediction, query: PredictQuery) -> list[Json]:
    rows: list[Json] = [
        {"value": value, "std": std} for value, std in zip(prediction.value_B.tolist(), prediction.std_B.tolist(), strict=True)
    ]
    if query.members:
        for row, members_M in zip(rows, prediction.member_values_MB.T.tolist(), strict=True):
            row["members"] = members_M
    return rows
