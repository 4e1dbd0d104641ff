"""Evaluations and figures by the Python client and on the command line, against a real service."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.cli_landscape import print_landscape
from service.client import ApiError, AsyncClient, Client
from tests.service.conftest import Server
from tests.service.test_figures import PAPER, measured_job  # noqa: F401  (a fixture)
from worker.jobs import JobKind


@pytest.fixture
def figures_job(measured_job: str) -> str:  # noqa: F811
    return measured_job


def snapcycle(server: Server, *arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, arguments, env={"SNAPCYCLE_URL": server.url, "COLUMNS": "200"})
    assert done.exit_code == status, done.output
    return done.stderr if status else done.stdout


def test_the_client_draws_figures_and_submits_evaluations(server: Server, figures_job: str, finished_job: str) -> None:
    with Client(server.url) as client:
        job = client.jobs.get(figures_job)
        assert [each["name"] for each in job.figures() if each["available"]] == PAPER
        assert len(go.Figure(job.figure("correlation")).data) == 1
        beside = job.figure("ensemble_size", against=client.jobs.get(finished_job).data)
        assert len(beside["data"]) == 10  # the other has no curve of the last m
        with pytest.raises(ApiError, match="did you mean correlation"):
            job.figure("corelation")
        evaluation = client.jobs.evaluate(job.data, landscape={"max_rows": 20}, name="look")
        assert (evaluation.data["kind"], evaluation.data["config"]["job_id"], evaluation.data["name"]) == (
            JobKind.EVALUATE,
            figures_job,
            "look",
        )
        evaluation.cancel()


def test_the_asynchronous_client_does_the_same(server: Server, figures_job: str) -> None:
    async def draw() -> Any:
        async with AsyncClient(server.url) as client:
            job = await client.jobs.get(figures_job)
            return await job.figure("interpolation")

    assert go.Figure(asyncio.run(draw())).data


def test_figures_are_listed_with_the_reason_why_one_is_missing(server: Server, figures_job: str) -> None:
    printed = snapcycle(server, "figures", figures_job)
    assert re.search(r"interpolation\s+yes\s+Loss along the straight lines", printed)
    assert re.search(r"range_test\s+no\s+its rate was not measured", printed)
    assert len(json.loads(snapcycle(server, "figures", figures_job, "--json"))) == 5


def test_figures_are_written_as_pages_of_their_own(server: Server, figures_job: str, tmp_path: Path) -> None:
    printed = snapcycle(server, "figures", figures_job, "--out", str(tmp_path / "new"))
    files = sorted((tmp_path / "new").glob("*.html"))
    assert [file.stem for file in files] == sorted(PAPER)
    assert (tmp_path / "new" / "plotly.min.js").read_text(encoding="utf-8").startswith("/**\n* plotly.js v")
    assert printed.split() == [str(tmp_path / "new" / f"{name}.html") for name in PAPER]
    for file in files:
        page = file.read_text(encoding="utf-8")
        assert '<script src="plotly.min.js"></script>' in page
        assert re.search(rf'id="{file.stem}-data">\{{"data"', page)


def test_a_job_without_figures_ends_the_command_with_the_reasons(server: Server, figures_job: str, tmp_path: Path) -> None:
    with Client(server.url) as client:
        evaluation = client.jobs.evaluate(figures_job)
        errors = snapcycle(server, "figures", evaluation.id, "--out", str(tmp_path), status=1)
        evaluation.cancel()
    assert "interpolation is not there: " in errors
    assert f"{evaluation.id} has no figure to write yet" in errors
    assert list(tmp_path.iterdir()) == []


def test_evaluate_says_what_it_would_cost_and_submits(server: Server, figures_job: str) -> None:
    printed = snapcycle(server, "evaluate", figures_job, "--dry-run")
    assert re.search(r"snapshots\s+3\npairs\s+3\n", printed)
    submitted = json.loads(snapcycle(server, "evaluate", figures_job, "--max-rows", "30", "--submit-only", "--json"))
    assert submitted["config"]["landscape"]["max_rows"] == 30
    refused = snapcycle(server, "evaluate", figures_job, "--max-rows", "none", status=1)
    assert "--max-rows: must be a whole number" in refused
    both = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", figures_job, "--dry-run", "--submit-only"])
    assert "--dry-run and --submit-only: exclude each other" in both.output


def test_a_report_is_printed_with_its_advice(server: Server, figures_job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(server.url) as client:
        report = client.jobs.get(figures_job).result()["landscape"]
    report["snapshots"][0]["sharpness"]["eigenvalue"] |= {"value": None, "is_converged": False}
    print_landscape(report)
    printed = capsys.readouterr().out
    assert report["basins"]["advice"] in printed
    assert "rise: how much the loss grows" in printed
    assert "not finite?" in printed
    assert re.search(r"1 - 2\s+[0-9.e-]+\s+[0-9.]+\s+(yes|no)", printed)
