"""Figure pages in a real browser: drawn under the policy that they are sent with, and by themselves as files."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from service.figure_page import PLOTLY_FILE, page_beside_script, plotly_script
from service.figures import draw
from tests.service.conftest import Server
from tests.service.figure_jobs import landscape, members, training
from tests.service.test_figures import PAPER, measured_job  # noqa: F401  (a fixture)

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")]


def browsed(url: str, directory: Path) -> tuple[str, str]:
    """The page as the browser has drawn it, and what it said on its console."""
    assert CHROMIUM is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={directory}",
        "--virtual-time-budget=10000",
    ]
    command = [CHROMIUM, *options, "--enable-logging=stderr", "--log-level=0", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


def test_the_page_of_a_job_is_drawn_under_its_policy(server: Server, api: httpx2.Client, measured_job: str, tmp_path: Path) -> None:  # noqa: F811
    """chromium asks for HTML by its own Accept header."""
    page, console = browsed(f"{server.url}/v1/jobs/{measured_job}/figures", tmp_path)
    assert console == ""
    for name in PAPER:
        figure = re.search(rf'<figure id="{name}".*?</figure>', page, re.DOTALL)
        assert figure is not None
        title = api.get(f"/v1/jobs/{measured_job}/figures/{name}").json()["layout"]["title"]["text"]
        assert re.escape(re.search(r"<b>(.*?)</b>", title)[1]) in re.escape(figure[0])  # type: ignore[index]  # every title is bold
        assert figure[0].count('class="main-svg"') >= 2
    assert '<g class="trace scatter' in page
    assert "<b>measured" not in page


def test_a_file_needs_only_the_script_beside_it(tmp_path: Path) -> None:
    job = training(name="kept </script>", result=members() | {"landscape": landscape()})
    file = tmp_path / "interpolation.html"
    (tmp_path / PLOTLY_FILE).write_text(plotly_script(), encoding="utf-8")
    file.write_text(page_beside_script("kept", {"interpolation": draw("interpolation", job)}), encoding="utf-8")
    page, console = browsed(file.as_uri(), tmp_path / "profile")
    assert console == ""
    assert 'class="main-svg"' in page
    data = re.search(r'id="interpolation-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["data"][0]["name"] == "1 → 2"
    assert re.findall(r'src="(.*?)"', file.read_text(encoding="utf-8")) == [PLOTLY_FILE]
