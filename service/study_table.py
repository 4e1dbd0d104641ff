"""The table of a study as text: for a terminal, and as Markdown."""

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

MEASURES: dict[str, tuple[str, float, int]] = {
    "error": ("error %", 100.0, 2),
    "nll": ("NLL", 1.0, 4),
    "ece": ("ECE", 1.0, 4),
    "calibrated_nll": ("calibrated NLL", 1.0, 4),
    "rmse": ("RMSE", 1.0, 4),
    "mae": ("MAE", 1.0, 4),
}
"""Title, factor and decimals of what has a column."""

NOTHING = "-"


def study_columns(result: Json, *, is_narrow: bool = False) -> list[str]:
    """The titles of the columns; those of numbers begin with ``>``."""
    measures = _measures(result, is_narrow=is_narrow)
    difference = [">vs cosine" if is_narrow else f">{MEASURES[measures[0]][0]} vs cosine"] if measures else []
    worth = [">worth"] if result["deep_ensembles"] else []
    return ["arm", ">nets", ">epochs", *(f">{MEASURES[name][0]}" for name in measures), *difference, *worth]


def study_rows(result: Json, *, is_narrow: bool = False) -> list[list[str]]:
    """A row for each arm: mean ± half of the 95 % interval; the difference with its interval; the deep-ensemble equivalent.

    Args:
        result: The study's.
        is_narrow: Puts intervals below their means and leaves the calibrated likelihood out, for terminals of 80 columns.
    """
    measures, space = _measures(result, is_narrow=is_narrow), "\n" if is_narrow else " "
    rows = []
    for arm in result["arms"]:
        cells = [
            arm["arm"].replace("_", "_\n" if is_narrow else "_"),
            _members(arm["num_members"]),
            _number(arm["budget_epochs"], "g"),
        ]
        cells += [space.join(_estimate(arm["metrics"][name], name)) for name in measures]
        if measures:
            cells.append(space.join(_difference((arm["difference_to_cosine"] or {}).get(measures[0]), measures[0])))
        if result["deep_ensembles"]:
            cells.append(_worth(arm["deep_ensemble_equivalent"]))
        rows.append(cells)
    return rows


def study_remarks(result: Json) -> list[str]:
    """What belongs below the table: the verdict on the automatic plan, how to read it, and what has failed."""
    seeds = len(result["seeds"])
    remarks = [f"mean over {seeds} seed{'s' if seeds > 1 else ''}" + (", ± half of the 95 % interval" if seeds > 1 else "")]
    if result["auto"]:
        remarks.append(result["auto"]["text"])
    if result["deep_ensembles"]:
        remarks.append("worth: as many independently trained networks give the same likelihood")
    remarks += result["notes"]
    failures = {failure["run"]: failure["reason"] for arm in result["arms"] for failure in arm["failures"]}
    return remarks + [f"run {run} failed: {reason}" for run, reason in failures.items()]


def study_markdown(result: Json) -> str:
    """The table as Markdown."""
    columns = study_columns(result)
    lines = [[title.removeprefix(">") for title in columns], ["---:" if title.startswith(">") else "---" for title in columns]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (*lines, *study_rows(result)))


def _measures(result: Json, *, is_narrow: bool) -> list[str]:
    """The measures that an arm has."""
    found = [name for name in MEASURES if any(arm["metrics"][name] for arm in result["arms"])]
    return [name for name in found if not is_narrow or name != "calibrated_nll"]


def _members(numbers: Sequence[int | None]) -> str:
    """``5``, or ``1 to 4`` where seeds differ."""
    known = sorted({number for number in numbers if number is not None})
    if not known:
        return NOTHING
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _estimate(estimate: Json | None, name: str) -> list[str]:
    if estimate is None:
        return [NOTHING]
    _, factor, decimals = MEASURES[name]
    mean = f"{factor * estimate['mean']:.{decimals}f}"
    if estimate["high"] is None:
        return [mean]
    half = max(estimate["high"] - estimate["mean"], estimate["mean"] - estimate["low"])  # one end may be clipped
    return [mean, f"± {factor * half:.{decimals}f}"]


def _difference(estimate: Json | None, name: str) -> list[str]:
    if estimate is None:
        return [NOTHING]
    _, factor, decimals = MEASURES[name]
    mean, low, high = (None if estimate[end] is None else f"{factor * estimate[end]:+.{decimals}f}" for end in ("mean", "low", "high"))
    assert mean is not None, "an estimate has a mean"
    return [mean] if low is None else [mean, f"({low}, {high})"]


def _worth(equivalent: Json | None) -> str:
    if equivalent is None:
        return NOTHING
    match equivalent["bound"]:
        case "below":
            return "< 1"
        case "above":
            return f"> {equivalent['networks']:g}"
    return f"{equivalent['networks']:.1f}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)
