"""Draws the four figures of the snapshot-ensemble paper (1704.00109, figures 2, 4, 5 and 6) for a job of yours, from the API alone.

    python examples/paper_figures.py JOB [--against CONTROL] [--url http://127.0.0.1:8000] [--out figures] [--svg]

JOB is a training job whose landscape was measured ("landscape": true in its request), CONTROL another one to show beside it, such
as a run without restarts. Each figure becomes a page that any browser shows; with --svg a picture as well, drawn by chromium.
"""

import argparse
import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from service.client import Client, Job

FIGURES = ("schedule", "ensemble_size", "interpolation", "correlation")
WIDTH = 1000

SCRIPT = """
const holder = document.querySelector(".plotly-graph-div");
const size = { format: "svg", width: WIDTH, height: holder.layout.height };
Plotly.toImage(holder, size).then((address) => {
  const picture = document.createElement("pre");
  picture.id = "picture";
  picture.textContent = decodeURIComponent(address.split(",").slice(1).join(","));
  document.body.replaceChildren(picture);
});
"""
"""Has the browser put the picture's text in the place of the page, where ``--dump-dom`` finds it."""


def main() -> None:
    """Draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("--against")
    parser.add_argument("--url")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--svg", action="store_true")
    arguments = parser.parse_args()
    with Client(arguments.url) as client:
        for path in draw_all(client.jobs.get(arguments.job), arguments.out, against=arguments.against, svg=arguments.svg):
            print(path)


def draw_all(job: Job, directory: Path, *, against: str | None = None, svg: bool = False) -> list[Path]:
    """Writes the figures as pages, or as pictures, and returns their files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FIGURES:
        figure = go.Figure(job.figure(name, against=against))
        path = directory / f"{name}.{'svg' if svg else 'html'}"
        if svg:
            path.write_text(picture_of(figure), encoding="utf-8")
        else:
            figure.write_html(path)
        written.append(path)
    return written


def picture_of(figure: Any) -> str:
    """The figure as SVG, drawn by a browser without a window.

    Raises:
        FileNotFoundError: There is no chromium.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise FileNotFoundError("a picture needs chromium or google-chrome on the PATH: install one, or leave out --svg")
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "figure.html"
        figure.write_html(page, post_script=SCRIPT.replace("WIDTH", str(WIDTH)))
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory}/profile", "--virtual-time-budget=10000"]
        done = subprocess.run([browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'<pre id="picture">(.*?)</pre>', done.stdout, re.DOTALL)
    if found is None:
        raise RuntimeError("the browser drew no picture: run the command without --svg and look at the page")
    return html.unescape(found[1])


if __name__ == "__main__":
    main()
