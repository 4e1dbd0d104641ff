"""What this service can do, as documents: the models of ``clr.config`` say it themselves."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from pydantic import BaseModel

from clr.builtins import builtin_names
from clr.config import ModelConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from service.prediction_bodies import CONTENT_TYPES, DTYPES
from worker.job_requests import REQUESTS
from worker.settings import Settings

Json = dict[str, Any]

PACKAGES = ("snapcycle", "torch", "numpy", "fastapi", "celery", "safetensors")


@cache
def describe_choices() -> Json:
    """Architectures, schedules, optimizers with the JSON Schemas of their parameters, and the plain choices."""
    return {
        "architectures": [_member(model, "architecture", model.model_fields["params"].annotation) for model in _members(ModelConfig)],
        "schedules": [_member(model, "type", model, name=tag) for model in _members(ScheduleConfig) for tag in _tags(model, "type")],
        "optimizers": [_member(model, "type", model) for model in _members(OptimizerConfig)],
        "augmentations": _choices("augmentation"),
        "precisions": _choices("precision"),
        "kinds": list(REQUESTS),
        "datasets": {"builtin": list(builtin_names()), "uploads": [".npz", ".csv"]},
        "predictions": {"content_types": list(CONTENT_TYPES), "dtypes": list(DTYPES)},
        "training_request": TrainingConfig.model_json_schema(),
    }


def describe_limits(settings: Settings) -> Json:
    """The sizes that this installation accepts."""
    return {
        "max_upload_bytes": settings.max_upload_bytes,
        "max_json_bytes": settings.max_json_bytes,
        "max_predict_bytes": settings.max_predict_bytes,
        "max_dataset_bytes": settings.dataset_bytes,
        "max_predict_rows": settings.max_predict_rows,
        "max_predict_values": settings.max_predict_values,
        "max_queued_jobs": settings.max_queued_jobs,
        "max_tenant_dataset_bytes": settings.max_tenant_dataset_bytes,
        "max_model_parameters": settings.max_model_parameters,
        "max_training_bytes": settings.max_training_bytes,
        "requests_per_second": settings.rate_limit,
    }


@cache
def describe_versions() -> Json:
    """Versions of what the results depend on."""
    return {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}}


def installed_version(package: str) -> str:
    """The version of an installed package; of this one also where it runs from its sources."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "0+source"


def _members(union: Any) -> tuple[type[BaseModel], ...]:
    """The models of ``Annotated[A | B, …]``."""
    return get_args(get_args(union)[0])


def _tags(model: type[BaseModel], discriminator: str) -> tuple[str, ...]:
    return get_args(model.model_fields[discriminator].annotation)


def _member(model: type[BaseModel], discriminator: str, parameters: Any, *, name: str | None = None) -> Json:
    return {
        "name": name or _tags(model, discriminator)[0],
        "description": " ".join((model.__doc__ or "").split()),
        "schema": parameters.model_json_schema(),
    }


def _choices(field: str) -> list[str]:
    return list(get_args(TrainingConfig.model_fields[field].annotation))
