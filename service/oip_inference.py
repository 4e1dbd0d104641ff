"""One inference from its body to its answer: what the routes of the Open Inference Protocol share."""

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from torch import Tensor

from clr.ensemble import Ensemble
from service.dependencies import Services
from service.ensembles import Members
from service.media import JSON, OCTETS
from service.oip import output_shapes, version_number
from service.oip_answers import InferenceAnswer, inference_answer
from service.oip_compression import unpacked
from service.oip_paths import ENCODINGS
from service.oip_requests import HEAD_LENGTH, InferenceRequest, read_inference
from service.predict_limits import check_size
from service.principals import Principal
from service.receiving import received_body

LOOP_BYTES = 64 * 1024
"""Bodies up to this size are read on the event loop, which takes less than handing them to a thread."""
LOOP_VALUES = 10_000
"""The same for writing an answer: about 1 ms."""


async def inference(name: str, version: str | None, request: Request, services: Services, principal: Principal) -> Response:
    """The answer to an inference request.

    Args:
        name: Id or alias of the ensemble.
        version: As the path has it; None for the latest.
        request: Of which the headers and the body count.
        services: As the sender sees them.
        principal: The sender.

    Raises:
        Problem, InputError: It is refused.
    """
    stall_seconds = services.settings.body_stall_seconds
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    async with received_body(request, principal, services.bodies, grace_seconds=stall_seconds) as body:
        if encoding not in ENCODINGS:  # another one was refused, unless nothing has been sent
            with services.predictor.admitted():
                return await _answered(name, version, body, request, services)
        with services.predictor.admitted():
            async with services.unpacking:
                whole = await run_in_threadpool(unpacked, body, encoding, limit=services.settings.max_predict_bytes)
                return await _answered(name, version, whole, request, services)


async def _answered(name: str, version: str | None, body: bytes, request: Request, services: Services) -> Response:
    members, ensemble = await loaded_model(services, name, version)

    def read() -> tuple[InferenceRequest, Tensor]:
        asked = read_inference(body, request.headers, input_shape=ensemble.input_shape, outputs=tuple(output_shapes(ensemble)))
        check_size(asked.inputs, ensemble, with_members=asked.with_members, settings=services.settings)
        return asked, ensemble.checked(asked.inputs)

    asked, rows = read() if len(body) <= LOOP_BYTES else await run_in_threadpool(read)
    timed = await services.predictor.predict(ensemble, rows, with_members=asked.with_members)

    def write() -> InferenceAnswer:
        return inference_answer(asked, timed.prediction, class_names=ensemble.class_names, model_name=name, model_version=members.version)

    values = len(rows) * (len(ensemble.class_names) + 1) * (ensemble.num_members if asked.with_members else 1)
    answer = write() if values <= LOOP_VALUES else await run_in_threadpool(write)
    headers = {"X-Ensemble": members.origin}
    if answer.head_bytes is not None:
        headers[HEAD_LENGTH] = str(answer.head_bytes)
    return Response(answer.body, media_type=JSON if answer.head_bytes is None else OCTETS, headers=headers)


async def loaded_model(services: Services, name: str, version: str | None) -> tuple[Members, Ensemble]:
    """A version, by default the latest, and its networks."""
    number = None if version is None else version_number(version)
    members = await services.ensembles.find_soon(name, number)
    ensemble = services.predictor.loaded(members)
    return members, ensemble if ensemble is not None else await run_in_threadpool(services.predictor.load, members)
