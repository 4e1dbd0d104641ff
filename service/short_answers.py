"""What the short way (``service.short_way``) does with the two kinds of plain requests, before and after the forward pass.

Every exception is for the long way, which meets it again and says what it is.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import Scope
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

ANSWERS = {b"": JSON, b"*/*": JSON, JSON.encode(): JSON, NPY.encode(): NPY}
"""What is answered to the Accept headers that need no weighing."""
BODIES = {media_type.encode(): media_type for media_type in (JSON, OCTETS, NPY)}
_JSON_HEAD, _NPY_HEAD, _OCTETS_HEAD = (f"content-type: {media_type}\r\nx-ensemble: %s\r\n".encode() for media_type in (JSON, NPY, OCTETS))


@dataclass
class PlainRequest:
    """A request whose head has nothing unusual.

    Attributes:
        scope: As the application would get it.
        template: The route's path.
        ensemble_id: Id or alias.
        begin: What to do with the body once it is whole.
        headers: Each stands once.
        loop: That of its connection.
        begun: When it came (``time.perf_counter``).
    """

    scope: Scope
    template: str
    ensemble_id: str
    begin: "Begin"
    headers: dict[bytes, bytes]
    loop: asyncio.AbstractEventLoop
    begun: float = field(default_factory=time.perf_counter)
    body: bytes = b""


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


def begin_predict(request: PlainRequest, members: Members, ensemble: Ensemble, settings: Settings) -> Answering:
    """POST /v1/ensembles/{ensemble_id}/predict."""
    headers = request.headers
    wanted = ANSWERS.get(headers.get(b"accept", b""))
    content_type = BODIES.get(headers.get(b"content-type", b""))
    if wanted is None or content_type is None:
        raise UnusualError
    texts = {
        "content-type": content_type,
        "x-shape": headers.get(b"x-shape", b"").decode("latin-1"),
        "x-dtype": headers.get(b"x-dtype", b"").decode("latin-1"),
    }
    inputs = decode_inputs(request.body, texts, columns=ensemble.columns, input_shape=ensemble.input_shape)
    check_size(inputs, ensemble, with_members=False, settings=settings)
    _check_values(len(inputs), ensemble)
    head = (_NPY_HEAD if wanted == NPY else _JSON_HEAD) % members.origin.encode()

    def answered(timed: Timed) -> Answered:
        body = prediction_array(timed) if wanted == NPY else plain_prediction_json(members, ensemble, timed, begun=request.begun)
        return Answered(head, body)

    return Answering(ensemble.checked(inputs), answered)


def begin_infer(request: PlainRequest, members: Members, ensemble: Ensemble, settings: Settings) -> Answering:
    """POST /v2/models/{ensemble_id}/infer."""
    headers = Headers(raw=list(request.headers.items()))
    asked = read_inference(request.body, headers, input_shape=ensemble.input_shape, outputs=tuple(output_shapes(ensemble)))
    check_size(asked.inputs, ensemble, with_members=asked.with_members, settings=settings)
    if asked.with_members:
        raise UnusualError
    _check_values(len(asked.inputs), ensemble)

    def answered(timed: Timed) -> Answered:
        answer = inference_answer(
            asked, timed.prediction, class_names=ensemble.class_names, model_name=request.ensemble_id, model_version=members.version
        )
        if answer.head_bytes is None:
            return Answered(_JSON_HEAD % members.origin.encode(), answer.body)
        return Answered(_OCTETS_HEAD % members.origin.encode() + f"{HEAD_LENGTH.lower()}: {answer.head_bytes}\r\n".encode(), answer.body)

    return Answering(ensemble.checked(asked.inputs), answered)


def _check_values(num_rows: int, ensemble: Ensemble) -> None:
    """Leaves answers that take long to write to the long way."""
    if num_rows * (len(ensemble.class_names) or 1) > MAX_VALUES:
        raise UnusualError
