"""What a job would cost, weighed before it is made: nothing is allocated for a network that is refused."""

from clr.config import SetupConfig
from clr.datasets import Dataset
from clr.memory import training_bytes
from service.errors import Problem
from service.validation import FieldError
from worker.settings import Settings


def check_cost(settings: Settings, config: SetupConfig, dataset: Dataset, *, num_parameters: int) -> None:
    """Returns if this installation trains networks of this size.

    Raises:
        Problem: It doesn't; the figure, the limit and the remedy are in it.
    """
    if num_parameters > settings.max_model_parameters:
        raise _too_costly(
            f"the network would have {num_parameters} parameters, and at most {settings.max_model_parameters} are allowed here",
            hint="make it narrower or shallower",
            pointer="#/model",
            extra={"parameters": num_parameters, "limit_parameters": settings.max_model_parameters},
        )
    estimate = training_bytes(
        config.model,
        config.optimizer,
        input_shape=dataset.input_shape,
        num_outputs=dataset.num_outputs,
        batch_size=min(config.batch_size, len(dataset.inputs)),
    )
    if estimate > settings.max_training_bytes:
        raise _too_costly(
            f"training would take about {estimate} bytes of memory, and at most {settings.max_training_bytes} are allowed here",
            hint="take a smaller batch_size, and more accumulation instead, or a smaller network",
            pointer="#/batch_size",
            extra={"memory_bytes": estimate, "limit_memory_bytes": settings.max_training_bytes},
        )


def _too_costly(detail: str, *, hint: str, pointer: str, extra: dict[str, int]) -> Problem:
    return Problem("validation_error", f"{detail}: {hint}", errors=[FieldError(detail, pointer=pointer, hint=hint)], extra=extra)
