"""The README keeps its word: its blocks of shell and Python run, in their order, against a running service."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clr.builtins import FASHION_MNIST_DIR
from tests.end_to_end.processes import ROOT, Up, command_environment

README = (ROOT / "README.md").read_text()
MAKES_A_KEY = "snapcycle keys create"
SCRIPT_SECONDS = 230.0
"""README's blocks one after the other take a minute on a machine that does nothing else."""


def run_script(script: str, up: Up, directory: Path) -> str:
    """Runs a script of bash with the tests' Python; returns what it printed."""
    environment = command_environment({"SNAPCYCLE_URL": up.url, "SNAPCYCLE_DATA_DIR": str(up.data_dir)})
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "curl: (" not in done.stderr
    return done.stdout


def blocks(*languages: str) -> list[tuple[str, str]]:
    """The fenced blocks in these languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found if language in languages]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_block_of_shell_and_python_runs(up: Up, tmp_path: Path) -> None:
    script = ["set -eu"]
    for number, (language, code) in enumerate(blocks("sh", "python")):
        if MAKES_A_KEY in code:  # afterwards nobody gets in without one
            continue
        if language == "python":
            (tmp_path / f"block{number}.py").write_text(code)
            script.append(f"python block{number}.py")
        else:
            script.append(code.replace("http://127.0.0.1:8000", up.url))
    printed = run_script("\n".join(script), up, tmp_path)
    assert re.search(r'"ensemble_version":\s*[1-4],', printed), "the prediction was made while the job trained"
    assert re.search(r'"label":\s*"0".*"label":\s*"1".*"label":\s*"2"', printed)
    assert "(16, 1, 3, 3)" in printed, "the first convolution of the snapshot"
    for line in next(code for _, code in blocks("text")).splitlines():
        assert line.strip("[] ,'") in printed, "the warnings of the preview"
    (found,) = re.findall(r"^train with it: --max-lr job_\w+, or --max-lr (\S+)$", printed, re.MULTILINE)
    assert 0.001 < float(found) < 10, "the range test"
    assert re.search(r"^max_lr 0\.\d+: of \d+ short trainings", printed, re.MULTILINE), "the rate that a job found for itself"
    assert re.search(r"^- mean over 2 seeds", printed, re.MULTILINE), "the table of the study"
    assert re.search(r"^job_\w+ is (queued|running), 45 cycles in all$", printed, re.MULTILINE), "the job that got more cycles"
    assert re.search(r"^job_\w+ is (queued|running|paused), 45 cycles in all(, pause is on its way)?$", printed, re.MULTILINE)
    assert re.search(r"^ok +service +\S+, 1 worker$", printed, re.MULTILINE), "the doctor"
    assert re.search(r"^ok +store .* verified: nothing wrong; 0 in quarantine$", printed, re.MULTILINE), "the doctor"
    accuracy = re.search(r"accuracy on held-out rows: ([\d.]+)%", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 85


@pytest.mark.slow
def test_the_walk_with_an_api_key(tmp_path: Path) -> None:
    """Its own service, for the first key closes the door for everyone. What the text says besides the block is asked around it."""
    (walk,) = (code for _, code in blocks("sh") if MAKES_A_KEY in code)
    definitions = "\n".join(line for _, code in blocks("sh") for line in code.splitlines() if line.startswith(("API=", "field()")))
    status = "curl -s -o /dev/null -w '%{http_code}\\n' $API/jobs"
    before_revocation, revocation = walk[: walk.index("snapcycle keys revoke")], walk[walk.index("snapcycle keys revoke") :]
    with Up(tmp_path / "data") as own:
        script = [
            definitions.replace("http://127.0.0.1:8000", own.url),
            f'echo "without a key, before there is one: $({status})"',
            before_revocation,
            "sleep 2",  # as long as README says, for every change of keys
            f'echo "without a key: $({status})"',
            f'echo "with the key: $({status} -H "Authorization: Bearer $KEY")"',
            "if snapcycle jobs; then exit 1; fi",
            revocation,
            "sleep 2",
            f'echo "with the revoked key: $({status} -H "Authorization: Bearer $KEY")"',
        ]
        printed = run_script("set -eu\n" + "\n".join(script), own, tmp_path)
        assert own.interrupt() == 0
        log = own.log.read_text()
    assert re.search(r"before there is one: 200\nlist\n", printed), printed
    assert re.search(r"^\w{8} +default +read,predict,train .*valid +laptop$", printed, re.MULTILINE), printed
    assert "without a key: 401\nwith the key: 200\n" in printed
    assert re.search(r"^Key \w{8} was revoked at .*\nwith the revoked key: 401$", printed, re.MULTILINE), printed
    assert "sk_" not in log


def test_the_first_screen_has_the_two_commands_and_a_transcript() -> None:
    first_screen = "\n".join(README.splitlines()[:45])
    assert "make demo" in first_screen
    assert "make test" in first_screen
    assert re.search(r"^ensemble of 5 .*%", first_screen, re.MULTILINE)


def test_every_file_that_is_named_exists() -> None:
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert len(linked) >= 5
    assert [target for target in linked if not (ROOT / target).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST_DIR.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_example_with_curl_alone_runs_on_fashion_mnist(up: Up, tmp_path: Path) -> None:
    printed = run_script(f"TMPDIR={tmp_path} {ROOT}/examples/fashion_mnist.sh {up.url}", up, tmp_path)
    assert re.search(r'while it trains: .*"members_used":\s*[1-4],', printed), printed
    assert "status at that time: running" in printed
    assert "5 snapshots came as server-sent events" in printed
    assert re.search(r'afterwards: .*"members_used":\s*5,', printed)
    assert re.search(r"float32 \(8, 1, 3, 3\)$", printed, re.MULTILINE), "the first convolution, read by safetensors alone"
