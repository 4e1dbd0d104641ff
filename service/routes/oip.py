"""The Open Inference Protocol (KServe and Triton, version 2): each ensemble is a model, under its id and its aliases."""

from fastapi import APIRouter, Request, Response

from service.authorization import PrincipalDep
from service.capabilities import installed_version
from service.dependencies import ServicesDep
from service.oip import EXTENSIONS, model_document
from service.oip_inference import inference, loaded_model
from service.oip_paths import PREFIX
from service.oip_schemas import INFER_BODY, INFER_RESPONSES, InferenceModel, InferenceServer, ModelReady, ServerLive, ServerReady
from service.routes.system import readyz

router = APIRouter(prefix=PREFIX, tags=["open inference protocol"])


@router.get("", summary="Describe the inference server")
async def server() -> InferenceServer:
    """Name, version and extensions of the server."""
    return InferenceServer(name="snapcycle", version=installed_version("snapcycle"), extensions=list(EXTENSIONS))


@router.get("/health/live", summary="Is the inference server alive")
async def live() -> ServerLive:
    """200 as long as the process answers at all."""
    return ServerLive(live=True)


@router.get("/health/ready", summary="Is the inference server ready")
def ready(response: Response, services: ServicesDep) -> ServerReady:
    """503 when a component is away that requests need; GET /readyz names it."""
    return ServerReady(ready=readyz(response, services)["status"] == "ready")


@router.get("/models/{ensemble_id}", summary="Describe an ensemble as a model")
async def model(ensemble_id: str, services: ServicesDep) -> InferenceModel:
    """Its versions, its input and its outputs, with their shapes."""
    members, ensemble = await loaded_model(services, ensemble_id, None)
    return InferenceModel.model_validate(model_document(ensemble_id, ensemble, latest=members.version))


@router.get("/models/{ensemble_id}/versions/{version}", summary="Describe a version of an ensemble as a model")
async def model_version(ensemble_id: str, version: str, services: ServicesDep) -> InferenceModel:
    """As for the latest version; versions differ in how many members answer."""
    _, ensemble = await loaded_model(services, ensemble_id, version)
    latest = await services.ensembles.find_soon(ensemble_id)
    return InferenceModel.model_validate(model_document(ensemble_id, ensemble, latest=latest.version))


@router.get("/models/{ensemble_id}/ready", summary="Is an ensemble ready")
async def model_ready(ensemble_id: str, services: ServicesDep) -> ModelReady:
    """200 once it can answer; it is loaded for that. 409 before its first snapshot."""
    await loaded_model(services, ensemble_id, None)
    return ModelReady(name=ensemble_id, ready=True)


@router.get("/models/{ensemble_id}/versions/{version}/ready", summary="Is a version of an ensemble ready")
async def model_version_ready(ensemble_id: str, version: str, services: ServicesDep) -> ModelReady:
    """As for the latest version."""
    await loaded_model(services, ensemble_id, version)
    return ModelReady(name=ensemble_id, ready=True)


@router.post("/models/{ensemble_id}/infer", summary="Infer", openapi_extra=INFER_BODY, responses=INFER_RESPONSES)
async def infer(ensemble_id: str, request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """The ensemble's answer to the rows of one tensor, as the tensors that are asked for.

    Without `outputs` all of them are answered but `members`, what each member says, which is made for who asks for it.
    """
    return await inference(ensemble_id, None, request, services, principal)


@router.post(
    "/models/{ensemble_id}/versions/{version}/infer",
    summary="Infer with a version of an ensemble",
    openapi_extra=INFER_BODY,
    responses=INFER_RESPONSES,
)
async def infer_version(ensemble_id: str, version: str, request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """As with the latest version."""
    return await inference(ensemble_id, version, request, services, principal)
