"""What a run is set to, in words: for ``show`` and for dry runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client_core import Json

ESTIMATES = {
    "parameters": "parameters",
    "runs": "runs",
    "steps": "steps",
    "steps_per_epoch": "steps per epoch",
    "epochs": "epochs",
    "snapshots": "snapshots",
    "lines": "pairs",
    "rows": "rows",
    "most_epochs": "cost",
    "snapshot_bytes": "weights",
    "train_rows": "train rows",
    "validation_rows": "validation rows",
    "test_rows": "test rows",
}
"""How a dry run's figures are called."""


def settings_of(config: "Json", *, cycles: int | None = None, rate_from: str | None = None, result: "Json | None" = None) -> dict[str, str]:
    """The settings that people ask for, by label; what a job of this kind does not have is left out.

    Args:
        config: A job's.
        cycles: How many it has in the end, where that is settled.
        rate_from: The range test that its rate comes from.
        result: Its result, which knows what was measured and decided on the way.
    """
    found = {}
    if model := config.get("model"):
        found["model"] = model_text(model)
    if schedule := config.get("schedule"):
        found["schedule"] = _schedule_text(schedule, cycles)
        found["rate"] = _rate_text(schedule["max_lr"], rate_from, result)
    elif config.get("max_lr") is not None:
        found["rate"] = _rate_text(config["max_lr"], rate_from, result)
    if "job_id" in config:
        found["measured"] = config["job_id"]
    if "seeds" in config:
        found["arms"] = ", ".join(config["arms"])
        found["seeds"] = ", ".join(map(str, config["seeds"]))
        found["length"] = f"{counted(config['epochs'], 'epoch')} a run, {counted(config['cycles'], 'cycle')} where there are any"
    if "start_lr" in config:
        found["sweep"] = f"{config['sweep']}, {config['start_lr']:g} to {config['end_lr']:g}, {config['repeats']} times"
    if batch_size := config.get("batch_size"):
        found["batch"] = f"{batch_size} rows" + (f", {config['accumulation']} a step" if config["accumulation"] > 1 else "")
    if budget := config.get("budget"):
        found["budget"] = counted(budget["minutes"], "minute") if budget["minutes"] is not None else counted(budget["epochs"], "epoch")
    decisions = [change for change in (result or {}).get("plan") or [] if change["subject"] == "cycles"]
    if decisions:
        found["plan"] = f"{counted(len(decisions[-1]['cycle_ends']), 'cycle')}: {decisions[-1]['reason']}"
    return found


def estimate_lines(plan: "Json") -> list[str]:
    """The figures of a dry run, one a line."""
    config, lines = plan["config"], []
    for name, value in plan["estimate"].items():
        text = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        if name == "steps" and value is None:
            text = f"as many as fit in {counted(config['budget']['minutes'], 'minute')}"
        elif name == "snapshots" and (config.get("schedule") or {}).get("cycles") == "auto":
            text = f"at least {text}"
        elif name == "most_epochs":
            text = f"at most the time of {text} epochs"
        elif name == "snapshot_bytes":
            text = f"{value / 1e6:,.3g} MB" + (" in all" if "runs" in plan["estimate"] else " a snapshot")
        elif value is None:
            continue
        lines.append(f"{ESTIMATES.get(name, name.replace('_', ' ')):<16} {text}")
    return lines


def counted(number: float, noun: str) -> str:
    """``1 epoch``, ``2.5 epochs``."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def model_text(model: "Json") -> str:
    """A network as its options spell it."""
    return " ".join([model["architecture"], *(f"{name}={value}" for name, value in model["params"].items())])


def _schedule_text(schedule: "Json", cycles: int | None) -> str:
    parts = [schedule["type"]]
    if schedule.get("cycles") == "auto":
        parts.append("cycles auto" if cycles is None else f"{counted(cycles, 'cycle')}, chosen on the way")
    elif schedule.get("cycles") is not None:
        parts.append(counted(schedule["cycles"], "cycle"))
    if schedule.get("epochs_per_cycle") is not None:
        parts.append(f"{counted(schedule['epochs_per_cycle'], 'epoch')} each")
    if schedule.get("epochs") is not None:
        parts.append(counted(schedule["epochs"], "epoch"))
    return ", ".join(parts)


def _rate_text(rate: "float | str | Json", rate_from: str | None, result: "Json | None") -> str:
    if rate == "auto":
        return "auto: a range test finds it before training"
    text = f"{rate:.3g}" if isinstance(rate, int | float) else str(rate)
    measured = "result" in ((result or {}).get("learning_rate") or {})
    source = f", from {rate_from}" if rate_from else ", by its own range test" if measured else ""
    return text + source
