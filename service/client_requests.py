"""The bodies of ``POST /v1/jobs`` as the client takes them: keyword arguments, with the network's and the schedule's fields lifted."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from service.client_core import Json

DatasetRef = str | Mapping[str, Any]
"""A dataset's id, or the object that has it."""


class TrainOptions(TypedDict, total=False):
    """Fields of a training request, with those of the model and of the schedule lifted to the top.

    What is left out gets the service's default; ``schedule`` gives a whole schedule in place of its lifted fields.
    """

    architecture: str
    params: Json
    schedule: Json
    cycles: int | Literal["auto"]
    epochs_per_cycle: float
    epochs: float
    budget: Json
    max_lr: float | Literal["auto"] | Json
    min_lr: float
    cycle_mult: float | str
    restart_decay: float
    warmup_steps: int
    boundaries: str
    optimizer: Json
    batch_size: int
    seed: int
    precision: str
    augmentation: str
    validation_fraction: float
    test_fraction: float
    landscape: bool | Json
    name: str
    metadata: dict[str, str]


MODEL_FIELDS = ("architecture", "params")
SCHEDULE_FIELDS = (
    "cycles",
    "epochs_per_cycle",
    "epochs",
    "max_lr",
    "min_lr",
    "cycle_mult",
    "restart_decay",
    "warmup_steps",
    "boundaries",
)


def id_of(dataset: DatasetRef) -> str:
    """The id of a dataset that is given as its id or as its object."""
    return dataset if isinstance(dataset, str) else dataset["id"]


def training_request(dataset: DatasetRef, options: TrainOptions) -> Json:
    """The body of ``POST /v1/jobs``.

    Raises:
        ValueError: Both ``schedule`` and one of its fields were given.
    """
    given: Json = dict(options)
    model = {name: given.pop(name) for name in MODEL_FIELDS if name in given}
    schedule = {name: given.pop(name) for name in SCHEDULE_FIELDS if name in given}
    if schedule and "schedule" in given:
        raise ValueError(f"schedule and {', '.join(schedule)} were both given: put everything into schedule")
    body: Json = {"kind": "train", "dataset_id": id_of(dataset), **given}
    if model:
        body["model"] = model
    if schedule:
        body["schedule"] = {"type": "warm_restarts", **schedule}
    return body


class RangeTestOptions(TypedDict, total=False):
    """Fields of a range test, with those of the model lifted to the top. What is left out gets the service's default."""

    architecture: str
    params: Json
    sweep: Literal["exponential", "linear"]
    start_lr: float
    end_lr: float
    num_rates: int
    steps_per_rate: int
    repeats: int
    smoothing: float
    divergence_factor: float
    probes: bool
    probe_steps: int
    probe_repeats: int
    optimizer: Json
    batch_size: int
    accumulation: int
    seed: int
    precision: str
    augmentation: str
    validation_fraction: float
    test_fraction: float
    name: str
    metadata: dict[str, str]


class StudyOptions(TypedDict, total=False):
    """Fields of a study, with those of the model lifted to the top. What is left out gets the service's default."""

    architecture: str
    params: Json
    arms: Sequence[str]
    epochs: float
    cycles: int
    max_lr: float | str | Json
    restart_lr: float
    min_lr: float
    optimizer: Json
    batch_size: int
    accumulation: int
    precision: str
    augmentation: str
    validation_fraction: float
    test_fraction: float
    split_seed: int
    name: str
    metadata: dict[str, str]
