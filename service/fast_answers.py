"""What the short way (``service.fast_predictions``) answers to the two kinds of plain requests.

Every exception is for the long way, which meets it again and says what it is.
"""

from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from clr.ensemble import Ensemble
from service.dependencies import Services
from service.ensembles import Members
from service.media import JSON, NPY, OCTETS
from service.oip import output_shapes
from service.oip_answers import inference_answer
from service.oip_requests import HEAD_LENGTH, read_inference
from service.predict_limits import check_size
from service.prediction_bodies import decode_inputs
from service.predictions import PLAIN, plain_prediction_json, prediction_array, prediction_json

MAX_VALUES = 5_000
"""Numbers of an answer that the event loop writes itself."""

ANSWERS = {b"": JSON, b"*/*": JSON, JSON.encode(): JSON, NPY.encode(): NPY}
"""What is answered to the Accept headers that need no weighing."""
BODIES = {media_type.encode(): media_type for media_type in (JSON, OCTETS, NPY)}

_Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class FastRequest:
    """A plain request.

    Attributes:
        ensemble_id: Id or alias.
        headers: Each stands once.
        begun: When it came (``time.perf_counter``).
    """

    ensemble_id: str
    headers: dict[bytes, bytes]
    body: bytes
    begun: float


@dataclass(frozen=True)
class FastAnswer:
    """Body and headers of a 200."""

    body: bytes
    headers: _Headers


class UnusualError(Exception):
    """The request is for the long way."""


async def fast_predict(request: FastRequest, services: Services) -> FastAnswer:
    """The answer of POST /v1/ensembles/{ensemble_id}/predict."""
    headers = request.headers
    wanted = ANSWERS.get(headers.get(b"accept", b""))
    content_type = BODIES.get(headers.get(b"content-type", b""))
    if wanted is None or content_type is None:
        raise UnusualError
    members, ensemble = await _loaded(request, services)
    texts = {
        "content-type": content_type,
        "x-shape": headers.get(b"x-shape", b"").decode("latin-1"),
        "x-dtype": headers.get(b"x-dtype", b"").decode("latin-1"),
    }
    inputs = decode_inputs(request.body, texts, columns=ensemble.columns, input_shape=ensemble.input_shape)
    check_size(inputs, ensemble, with_members=False, settings=services.settings)
    timed = await services.predictor.predict(ensemble, ensemble.checked(inputs))
    if wanted == NPY:
        body = prediction_array(timed)
    elif len(timed.company) * (len(ensemble.class_names) or 1) <= MAX_VALUES:
        body = plain_prediction_json(members, ensemble, timed, begun=request.begun)
    else:
        body = b"".join(await run_in_threadpool(prediction_json, members, ensemble, timed, PLAIN, begun=request.begun))
    return FastAnswer(body, [(b"content-type", wanted.encode()), _origin(members)])


async def fast_infer(request: FastRequest, services: Services) -> FastAnswer:
    """The answer of POST /v2/models/{ensemble_id}/infer."""
    members, ensemble = await _loaded(request, services)
    asked = read_inference(
        request.body, Headers(raw=list(request.headers.items())), input_shape=ensemble.input_shape, outputs=tuple(output_shapes(ensemble))
    )
    check_size(asked.inputs, ensemble, with_members=asked.with_members, settings=services.settings)
    if asked.with_members or len(asked.inputs) * (len(ensemble.class_names) or 1) > MAX_VALUES:
        raise UnusualError
    timed = await services.predictor.predict(ensemble, ensemble.checked(asked.inputs))
    answer = inference_answer(
        asked, timed.prediction, class_names=ensemble.class_names, model_name=request.ensemble_id, model_version=members.version
    )
    if answer.head_bytes is None:
        return FastAnswer(answer.body, [(b"content-type", JSON.encode()), _origin(members)])
    length = (HEAD_LENGTH.lower().encode(), str(answer.head_bytes).encode())
    return FastAnswer(answer.body, [(b"content-type", OCTETS.encode()), _origin(members), length])


async def _loaded(request: FastRequest, services: Services) -> tuple[Members, Ensemble]:
    known = services.ensembles.recent(request.ensemble_id) if services.predictor.has_company else None
    members = known or await services.ensembles.find_soon(request.ensemble_id)
    ensemble = services.predictor.loaded(members)
    return members, ensemble if ensemble is not None else await run_in_threadpool(services.predictor.load, members)


def _origin(members: Members) -> tuple[bytes, bytes]:
    return b"x-ensemble", f"{members.ensemble_id}@{members.version}".encode()
