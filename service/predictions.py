"""The answer to a prediction: what the ensemble says, as JSON or as a bare array.

Shapes: M members, B rows, C classes, K chosen classes.
"""

# ruff: noqa: N806  # names carry their shapes

import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from clr.combination import EnsemblePrediction, RegressionPrediction
from clr.ensemble import Ensemble
from service.batcher import Prediction, Timed
from service.ensembles import Members
from service.errors import to_json
from service.request_schemas import PredictQuery

PART_VALUES = 50_000
"""Numbers that are written at a time: orjson lets no other thread run while it writes."""

PLAIN = PredictQuery.model_validate({})

Json = dict[str, Any]
Array = np.ndarray[Any, Any]


def prediction_json(members: Members, ensemble: Ensemble, timed: Timed, query: PredictQuery, *, begun: float) -> list[bytes]:
    """The JSON answer, in pieces, to a request that began at ``begun`` (``time.perf_counter``). For a thread: it may take seconds."""
    return [_beginning(members, ensemble), *_row_pieces(ensemble, timed, query), _end(timed, begun)]


def plain_prediction_json(members: Members, ensemble: Ensemble, timed: Timed, *, begun: float) -> bytes:
    """As ``prediction_json`` for a query without wishes, of few rows: those of a pass become objects together. For the event loop."""
    begin = timed.company.share(members.origin, lambda _: _beginning(members, ensemble))  # ensembles of the same snapshots share passes
    rows = timed.company.share("rows", lambda prediction: [*map(to_json, _documents(prediction, ensemble, PLAIN, slice(None)))])
    return b"".join((begin, b",".join(rows[timed.start : timed.end]), _end(timed, begun)))


def _beginning(members: Members, ensemble: Ensemble) -> bytes:
    """An answer up to its first row."""
    head = {
        "object": "prediction",
        "ensemble_id": members.ensemble_id,
        "ensemble_version": members.version,
        "members_used": ensemble.num_members,
    }
    return to_json(head)[:-1] + b',"predictions":['


def _end(timed: Timed, begun: float) -> bytes:
    """What follows the last row."""
    seconds = timed.queue_seconds, timed.compute_seconds, time.perf_counter() - begun
    return b'],"timing_ms":{"queue":%.3f,"compute":%.3f,"total":%.3f}}' % tuple(1000 * each for each in seconds)


def _row_pieces(ensemble: Ensemble, timed: Timed, query: PredictQuery) -> Iterator[bytes]:
    num_rows, values_per_row = _size(timed, ensemble, query)
    part_rows, prediction = max(1, PART_VALUES // values_per_row), timed.prediction
    for start in range(0, num_rows, part_rows):
        rows = _documents(prediction, ensemble, query, slice(start, start + part_rows))
        yield (b"," if start else b"") + to_json(rows)[1:-1]


def _documents(prediction: Prediction, ensemble: Ensemble, query: PredictQuery, part: slice) -> list[Json]:
    """The rows of a part."""
    match prediction:
        case EnsemblePrediction():
            return _classified(prediction, ensemble.class_names, query, part)
        case RegressionPrediction():
            return _valued(prediction, query, part)


def prediction_array(timed: Timed) -> bytes:
    """The mean probabilities (B, C), or the means (B,) of a regression, as one npy file."""
    match timed.prediction:
        case EnsemblePrediction() as prediction:
            values = prediction.probs_BC
        case RegressionPrediction() as prediction:
            values = prediction.value_B
    file = io.BytesIO()
    np.save(file, values.numpy(), allow_pickle=False)
    return file.getvalue()


def _size(timed: Timed, ensemble: Ensemble, query: PredictQuery) -> tuple[int, int]:
    """Rows, and about how many values each of them has in the answer."""
    members = ensemble.num_members if query.members else 0
    match timed.prediction:
        case EnsemblePrediction() as prediction:
            num_rows, num_classes = prediction.probs_BC.shape
            return num_rows, num_classes * (1 + members) + 5
        case RegressionPrediction() as prediction:
            return len(prediction.value_B), members + 2


def _classified(prediction: EnsemblePrediction, class_names: tuple[str, ...], query: PredictQuery, part: slice) -> list[Json]:
    """The rows of a part; numbers stay float32, which orjson writes in their shortest form."""
    probs_BC: Array = np.ascontiguousarray(prediction.probs_BC[part].numpy())
    measures = (prediction.entropy_B, prediction.mutual_information_B, prediction.agreement_B)
    rows = [
        {
            "label": class_names[label],
            "probability": probs_C[label],
            "uncertainty": {"entropy": entropy, "mutual_information": mutual_information, "agreement": agreement},
        }
        for label, probs_C, entropy, mutual_information, agreement in zip(
            prediction.labels_B[part].tolist(), probs_BC, *(measure[part].numpy() for measure in measures), strict=True
        )
    ]
    if query.top_k is None:
        for row, probs_C in zip(rows, probs_BC, strict=True):
            row["probabilities"] = probs_C
    else:
        order_BK = np.argsort(-probs_BC, axis=1, kind="stable")[:, : query.top_k]
        for row, probs_C, order_K in zip(rows, probs_BC, order_BK, strict=True):
            row["top_k"] = [{"label": class_names[label], "probability": probs_C[label]} for label in order_K]
    if prediction.member_probs_MBC is not None:
        members_BMC = np.ascontiguousarray(prediction.member_probs_MBC[:, part].numpy().swapaxes(0, 1))
        for row, members_MC in zip(rows, members_BMC, strict=True):
            row["members"] = members_MC
    return rows


def _valued(prediction: RegressionPrediction, query: PredictQuery, part: slice) -> list[Json]:
    values_B, stds_B = prediction.value_B[part].numpy(), prediction.std_B[part].numpy()
    rows: list[Json] = [{"value": value, "std": std} for value, std in zip(values_B, stds_B, strict=True)]
    if query.members:
        members_BM = np.ascontiguousarray(prediction.member_values_MB[:, part].numpy().T)
        for row, members_M in zip(rows, members_BM, strict=True):
            row["members"] = members_M
    return rows
