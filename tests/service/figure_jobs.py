"""Documents of jobs as the API gives them, small enough to compute by hand what a figure must show."""

from typing import Any

from service.figures import JobDocuments

Json = dict[str, Any]

METRICS = {"step": [1, 2, 3, 4], "epoch": [0.5, 1.0, 1.5, 2.0], "cycle": [0, 0, 1, 1], "learning_rate": [0.2, 0.1, 0.2, 0.1]}


def snapshot(cycle: int, *, accuracy: float, nll: float, ensemble: tuple[float, float], is_minimum: bool = True) -> Json:
    """The snapshot after the second step of ``cycle``; the ensemble's accuracy and NLL are those of all members up to it."""
    return {
        "cycle": cycle,
        "step": 2 * (cycle + 1),
        "learning_rate": 0.1,
        "is_minimum": is_minimum,
        "metrics": {"test": {"accuracy": accuracy, "nll": nll}},
        "ensemble": {"members": cycle + 1, "test": {"accuracy": ensemble[0], "nll": ensemble[1]}},
    }


def training(*, kind: str = "train", name: str | None = "first", status: str = "succeeded", result: Json | None = None) -> JobDocuments:
    """A run of two cycles with a snapshot each."""
    config = {"model": {"architecture": "mlp", "params": {}}, "schedule": {"type": "warm_restarts"}}
    job = {"id": "job_01", "kind": kind, "name": name, "status": status, "terminal": result is not None, "config": config}
    metrics = {"columns": METRICS | {"train_loss": [1.0, 0.5, 0.8, 0.4]}}
    snapshots = [
        snapshot(0, accuracy=0.8, nll=0.7, ensemble=(0.8, 0.7)),
        snapshot(1, accuracy=0.9, nll=0.5, ensemble=(0.875, 0.55), is_minimum=False),
    ]
    return JobDocuments(job, metrics, snapshots, result)


def members() -> Json:
    """What the result of ``training`` says of its snapshots together."""
    last = [{"accuracy": 0.9, "nll": 0.5}, {"accuracy": 0.875, "nll": 0.55}]
    return {
        "diversity": {"num_rows": 40, "correlation": [[1.0, 0.75], [0.75, 1.0]], "disagreement": [[0.0, 0.1], [0.1, 0.0]]},
        "ensemble_sizes": {"test": {"last": last, "first": [{"accuracy": 0.8, "nll": 0.7}, last[1]]}},
    }


def landscape(*, barrier: float | None = 0.3) -> Json:
    """A report of two snapshots with one line between them."""
    losses = [0.4, None if barrier is None else 0.35 + barrier, 0.3]
    line = {
        "first": 0,
        "second": 1,
        "lambdas": [0.0, 0.5, 1.0],
        "points": [{"loss": loss, "error": 0.1} for loss in losses],
        "threshold": 0.05,
        "barrier": barrier,
        "is_one_basin": False,
    }
    return {
        "num_rows": 100,
        "snapshots": [{}, {}],
        "basins": {"lines": [line], "basins": [[0], [1]]},
        "diversity": members()["diversity"],
    }


def range_answer(**changes: Any) -> Json:
    """The answer of a range test with one sweep that ended at a loss that is no finite number."""
    rates = [10 ** (-4 + index / 10) for index in range(30)]
    falls = [max(0.5, 2.0 - max(0, index - 10) * 0.1) for index in range(29)]
    sweep = {"seed": 7, "learning_rate": rates, "loss": [*falls, None], "smoothed": falls, "stop_reason": "not_finite"}
    answer = {
        "sweeps": [sweep],
        "suggestions": {"steepest": 0.01, "minimum_tenth": 0.005, "valley": 0.007},
        "min_lr": 0.001,
        "max_lr": 0.02,
        "reason": "the loss falls steadily",
    }
    return answer | changes


def estimate(*values: float | None) -> Json:
    """A mean over seeds with an interval of one tenth to either side; without one below two values."""
    present = [value for value in values if value is not None]
    mean = sum(present) / len(present)
    low, high = (mean - 0.1, mean + 0.1) if len(present) > 1 else (None, None)
    return {"mean": mean, "sd": None, "low": low, "high": high, "per_seed": list(values)}


def study() -> Json:
    """A study of three arms, two of which are read off the same run."""
    columns = ["step", "epoch", "learning_rate", "train_loss", "train_loss_sd"]
    curve = {"columns": columns, "rows": [[1, 0.5, 0.1, 2.0, 0.2], [2, 1.0, 0.1, 1.0, 0.1]]}
    other = {"columns": columns, "rows": [[1, 0.5, 0.1, 3.0, None], [2, 1.0, 0.1, None, None]]}
    return {
        "seeds": [0, 1],
        "epochs": 20.0,
        "arms": [
            {"arm": "snapshot_ensemble", "metrics": {"error": estimate(0.2, 0.4), "nll": estimate(0.5, 0.7)}, "loss": other}
            | {"budget_epochs": 20.0},
            {"arm": "step", "metrics": {"error": estimate(0.3, None), "nll": None}, "loss": curve, "budget_epochs": None},
            {"arm": "no_cycle", "metrics": {"error": estimate(0.25, 0.35), "nll": estimate(0.6, 0.8)}, "loss": curve}
            | {"budget_epochs": 40.0},
        ],
    }
