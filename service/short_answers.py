"""What the short way (``service.short_way``) does with the two kinds of plain requests, before and after the forward pass.

Every exception is for the long way, which meets it again and says what it is.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from torch import Tensor

from clr.ensemble import Ensemble
from service.batcher import Timed
from service.ensembles import Members
from service.media import JSON, NPY, OCTETS
from service.oip import output_shapes
from service.oip_answers import inference_answer
from service.oip_requests import HEAD_LENGTH, read_inference
from service.predict_limits import check_size
from service.prediction_bodies import decode_inputs
from service.predictions import plain_prediction_json, prediction_array
from worker.settings import Settings

MAX_VALUES = 5_000
"""Numbers of an answer that the event loop writes itself."""

ANSWERS = {"": JSON, "*/*": JSON, JSON: JSON, NPY: NPY}
"""What is answered to the Accept headers that need no weighing."""
BODIES = (JSON, OCTETS, NPY)
_JSON_HEAD, _NPY_HEAD, _OCTETS_HEAD = (f"content-type: {media_type}\r\nx-ensemble: %s\r\n".encode() for media_type in (JSON, NPY, OCTETS))


class PlainHead(NamedTuple):
    """What a head with nothing unusual says, to every request that begins with it.

    Attributes:
        template: The route's path.
        ensemble_id: Id or alias.
        headers: Each stands once.
        body_bytes: As declared.
        request_id: That of the sender, if it is usable.
        begin: What to do with the body once it is whole.
    """

    template: str
    ensemble_id: str
    headers: Headers
    body_bytes: int
    request_id: bytes | None
    begin: "Begin"


@dataclass(slots=True)
class PlainRequest:
    """A request whose head has nothing unusual.

    Attributes:
        loop: That of its connection.
        state: Of its ASGI scope.
        begun: When it came (``time.perf_counter``).
    """

    head: PlainHead
    loop: asyncio.AbstractEventLoop
    state: dict[str, Any]
    body: bytes = b""
    begun: float = field(default_factory=time.perf_counter)


class Answered(NamedTuple):
    """The body of a 200, and the header lines that go with it alone."""

    head: bytes
    body: bytes


class Answering(NamedTuple):
    """Rows for the forward pass, and what makes an answer of what the ensemble says about them."""

    rows: Tensor
    answered: Callable[[Timed], Answered]


Begin = Callable[[PlainRequest, Members, Ensemble, Settings], Answering]


class UnusualError(Exception):
    """The request is for the long way."""


def predict(headers: Headers) -> Begin | None:
    """What POST /v1/ensembles/{ensemble_id}/predict does with bodies under such a head; None where it has to go the long way."""
    wanted, content_type = ANSWERS.get(headers.get("accept", "")), headers.get("content-type", "")
    if wanted is None or content_type not in BODIES:
        return None
    texts = {name: headers.get(name, "") for name in ("content-type", "x-shape", "x-dtype")}
    return partial(_begin_predict, texts=texts, wants_array=wanted == NPY)


def _begin_predict(
    request: PlainRequest, members: Members, ensemble: Ensemble, settings: Settings, *, texts: Mapping[str, str], wants_array: bool
) -> Answering:
    inputs = decode_inputs(request.body, texts, columns=ensemble.columns, input_shape=ensemble.input_shape)
    check_size(inputs, ensemble, with_members=False, settings=settings)
    _check_values(len(inputs), ensemble)

    def answered(timed: Timed) -> Answered:
        if wants_array:
            return Answered(_NPY_HEAD % members.origin.encode(), prediction_array(timed))
        return Answered(_JSON_HEAD % members.origin.encode(), plain_prediction_json(members, ensemble, timed, begun=request.begun))

    return Answering(ensemble.checked(inputs), answered)


def infer(headers: Headers) -> Begin:
    """What POST /v2/models/{ensemble_id}/infer does with bodies under such a head."""
    return partial(_begin_infer, headers=headers)


def _begin_infer(request: PlainRequest, members: Members, ensemble: Ensemble, settings: Settings, *, headers: Headers) -> Answering:
    asked = read_inference(request.body, headers, input_shape=ensemble.input_shape, outputs=tuple(output_shapes(ensemble)))
    check_size(asked.inputs, ensemble, with_members=asked.with_members, settings=settings)
    if asked.with_members:
        raise UnusualError
    _check_values(len(asked.inputs), ensemble)

    def answered(timed: Timed) -> Answered:
        answer = inference_answer(
            asked, timed.prediction, class_names=ensemble.class_names, model_name=request.head.ensemble_id, model_version=members.version
        )
        if answer.head_bytes is None:
            return Answered(_JSON_HEAD % members.origin.encode(), answer.body)
        return Answered(_OCTETS_HEAD % members.origin.encode() + f"{HEAD_LENGTH.lower()}: {answer.head_bytes}\r\n".encode(), answer.body)

    return Answering(ensemble.checked(asked.inputs), answered)


def _check_values(num_rows: int, ensemble: Ensemble) -> None:
    """Leaves answers that take long to write to the long way."""
    if num_rows * (len(ensemble.class_names) or 1) > MAX_VALUES:
        raise UnusualError
