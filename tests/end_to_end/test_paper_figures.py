"""The paper's figures for a job that a real worker has trained and measured, and an evaluation of another, from the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from service.cli import app
from service.client import Client
from tests.end_to_end.processes import Up

FAST = {"max_rows": 128, "num_directions": 1, "ascent_steps": 1, "num_hessian_rows": 32, "max_iterations": 2, "num_lambdas": 3}
EXAMPLE = Path(__file__).parents[2] / "examples" / "paper_figures.py"


def snapcycle(up: Up, *arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"SNAPCYCLE_URL": up.url, "COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_papers_four_figures_come_from_the_api_alone(up: Up, tmp_path: Path) -> None:
    with Client(up.url) as client:
        digits = client.datasets.builtin("digits")
        model = {"architecture": "mlp", "params": {"hidden": [16]}}
        common = {"dataset_id": digits["id"], "model": model, "landscape": FAST}
        restarts = {"type": "warm_restarts", "cycles": 3, "epochs_per_cycle": 1, "max_lr": 0.1}
        cyclic = client.jobs.submit({**common, "schedule": restarts}).wait()
        control = client.jobs.submit({**common, "schedule": {"type": "step", "epochs": 3, "snapshots": 3}}).wait()
        result = cyclic.result()
    command = [sys.executable, str(EXAMPLE), cyclic.id, "--against", control.id, "--url", up.url, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    names = ["schedule", "ensemble_size", "interpolation", "correlation"]
    assert done.stdout.split() == [str(tmp_path / f"{name}.html") for name in names]
    assert all("plotly.js v" in (tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in names)
    assert len(result["landscape"]["basins"]["lines"]) == 3


def test_a_finished_training_is_evaluated_and_drawn(up: Up, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(FAST))
    train = ["train", "digits", "--cycles", "2", "--epochs-per-cycle", "1", "--param", "hidden=[16]", "--json"]
    trained = json.loads(snapcycle(up, *train))["id"]
    snapcycle(up, "follow", trained)
    printed = snapcycle(up, "evaluate", trained, "--config", str(settings))
    evaluation = printed.split()[0]
    assert re.search(r"1 - 2\s+[0-9.e-]+\s+[0-9.]+\s+(yes|no)", printed)
    assert "losses on 128 training rows" in printed
    assert "the one pair was measured" in printed
    assert printed.splitlines()[-1] in snapcycle(up, "show", evaluation)
    assert snapcycle(up, "figures", evaluation, "--out", str(tmp_path)).split() == [
        str(tmp_path / "interpolation.html"),
        str(tmp_path / "correlation.html"),
    ]
