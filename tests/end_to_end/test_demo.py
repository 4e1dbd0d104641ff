"""``snapcycle demo`` as a newcomer sees it."""

import re
import subprocess
import sys
from pathlib import Path

from service.cli_output import TERMINATED
from tests.end_to_end.processes import command_environment, descendants, is_alive, run_command


def test_the_demo_trains_predicts_and_shows_every_member_and_the_ensemble() -> None:
    shown = run_command("demo")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    members = re.findall(r"^ *snapshot (\d) +[\d.e-]+ +([\d.]+)% +([\d.]+)%", shown.stdout, re.MULTILINE)
    assert [number for number, _, _ in members] == ["1", "2", "3", "4", "5"]
    ensemble = re.search(r"^ *ensemble of 5 +([\d.]+)% +([\d.]+)%", shown.stdout, re.MULTILINE)
    assert ensemble is not None, shown.stdout
    assert float(ensemble[2]) > 95, "digits are easy: less means that something is broken"
    predictions = re.findall(r"^ *\d+ +\d +\d +[\d.]+% +(\d\.\d+) +\d\.\d+ +\d+%$", shown.stdout, re.MULTILINE)
    assert len(predictions) == 3
    assert float(predictions[0]) < float(predictions[2]), "the least certain stands last"
    assert shown.stderr == ""


def test_a_demo_that_is_terminated_leaves_neither_files_nor_processes(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "demo"],
        stdout=subprocess.PIPE,
        text=True,
        env=command_environment({"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}),
    )
    with demo:
        assert demo.stdout is not None
        next(line for line in demo.stdout if "it answers at" in line)
        processes = descendants(demo.pid)
        demo.terminate()
        demo.stdout.read()
        assert demo.wait(30) == TERMINATED
    assert [path.name for path in tmp_path.glob("snapcycle-demo-*")] == []
    assert [command for pid, command in processes.items() if is_alive(pid)] == []


def test_the_demo_says_which_datasets_there_are() -> None:
    refused = run_command("demo", "--dataset", "mnist")
    assert refused.returncode == 2
    assert "digits" in refused.stderr
    assert "fashion-mnist" in refused.stderr
