"""Numbers of timm's schedulers. timm cannot be imported whole without torchvision, so its scheduler package is imported by itself."""

import sys
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace

from benchmarks.peers.scripted import optimizer

_spec = find_spec("timm")
assert _spec is not None, "make peers installs timm"
sys.modules["timm"] = module_from_spec(_spec)  # its __init__, which needs torchvision, is not run

from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, StepLRScheduler, create_scheduler_v2, scheduler_kwargs  # noqa: E402


def peer() -> str:
    """Name and version."""
    return f"timm {version('timm')}"


def cosine(*, steps: list[int], max_lr: float = 0.1, **options: float) -> list[float]:
    """The rates that CosineLRScheduler sets at the given updates."""
    return _rates(CosineLRScheduler, steps, max_lr, options)


def step(*, steps: list[int], max_lr: float, decay_t: int, decay_rate: float) -> list[float]:
    """The rates of StepLRScheduler."""
    return _rates(StepLRScheduler, steps, max_lr, {"decay_t": decay_t, "decay_rate": decay_rate})


def multistep(*, steps: list[int], max_lr: float, decay_t: list[int], decay_rate: float) -> list[float]:
    """The rates of MultiStepLRScheduler."""
    return _rates(MultiStepLRScheduler, steps, max_lr, {"decay_t": decay_t, "decay_rate": decay_rate})


def default_cycle_decay() -> dict[str, float]:
    """What an unset cycle_decay means: in the class, in the factory, and in the factory's reading of a command line."""
    arguments = scheduler_kwargs(SimpleNamespace(sched="cosine"))
    return {
        "class": CosineLRScheduler(optimizer(), t_initial=10).cycle_decay,
        "factory": create_scheduler_v2(optimizer())[0].cycle_decay,
        "command line": arguments["cycle_decay"],
    }


def _rates(kind: type, steps: list[int], max_lr: float, options: dict[str, float] | dict[str, object]) -> list[float]:
    own = optimizer(max_lr)
    scheduler = kind(own, t_in_epochs=False, **options)
    rates = []
    for at in steps:
        scheduler.step_update(at)
        rates.append(float(own.param_groups[0]["lr"]))
    return rates
