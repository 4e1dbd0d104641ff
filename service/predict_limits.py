"""How large a prediction may be: in rows, and in numbers that its answer holds."""

from typing import Any

import numpy as np

from clr.ensemble import Ensemble
from service.errors import Problem
from worker.settings import Settings


def check_size(inputs: np.ndarray[Any, Any], ensemble: Ensemble, *, with_members: bool, settings: Settings) -> None:
    """Refuses what would take too much memory to answer; inputs without rows are refused later.

    Raises:
        Problem: More rows, or more numbers in the answer, than the settings allow.
    """
    rows, limit = len(inputs) if inputs.ndim else 0, settings.max_predict_values
    num_classes, num_members = len(ensemble.class_names) or 1, ensemble.num_members if with_members else 1
    values = rows * num_classes * num_members
    if rows <= settings.max_predict_rows and values <= limit:
        return
    rows_allowed = min(settings.max_predict_rows, limit * rows // values)
    if rows > settings.max_predict_rows:
        detail = f"a prediction may have at most {settings.max_predict_rows} rows, got {rows}"
    else:
        product = f"{rows} rows x {num_classes} classes" + (f" x {num_members} members" if with_members else "")
        detail = f"a prediction may carry at most {limit} numbers, got {product} = {values}"
    remedy = f"send at most {rows_allowed} rows at a time" + (", or leave out members=true" if with_members else "")
    raise Problem("too_large", f"{detail}: {remedy}", extra={"limit_rows": rows_allowed, "limit_values": limit})
