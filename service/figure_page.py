"""Figures as a page: with the scripts from the service's own paths, or as files that share one script beside them.

The figures stand in the page as data, not as code, so a policy can forbid every script that the service does not serve itself.
"""

import json
from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

from plotly.offline import get_plotlyjs, get_plotlyjs_version

Json = dict[str, Any]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Plotly sets styles from its script, and makes its images of a figure as data."""

PLOTLY_FILE = "plotly.min.js"

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:1.5rem auto;padding:0 1rem;color:#1f2328;background:#fff}
figure{margin:0 0 2.5rem}h1{font-size:1.4rem}p{color:#656d76}"""

DRAWING_SCRIPT = """// The buttons are named one by one: Plotly's own choice has one that sends the data to its makers.
const holders = document.querySelectorAll("figure[data-source]");
for (const holder of holders) {
  const figure = JSON.parse(document.getElementById(holder.dataset.source).textContent);
  const options = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: holder.id },
  };
  if (holders.length === 1) {  // by itself it has the whole window, and at least the height that it was made for
    holder.style.margin = "0";
    holder.style.height = `max(${figure.layout.height}px, 100vh - 3rem)`;
    delete figure.layout.height;
  }
  Plotly.newPlot(holder, figure.data, figure.layout, options);
}
"""


@cache
def plotly_version() -> str:
    """Of the script that the plotly package ships."""
    version: str = get_plotlyjs_version()
    return version


def plotly_script() -> str:
    """The script itself, 4.8 MB."""
    script: str = get_plotlyjs()
    return script


def linked_page(title: str, figures: Mapping[str, Json], *, missing: Mapping[str, str], plotly_path: str, drawing_path: str) -> str:
    """A page whose scripts are fetched from paths of the same service.

    Args:
        title: Of the page.
        figures: By name.
        missing: Why others are not there, by name.
        plotly_path: Of Plotly's script.
        drawing_path: Of ``DRAWING_SCRIPT``.
    """
    scripts = f'<script src="{escape(plotly_path)}"></script><script src="{escape(drawing_path)}"></script>'
    return _page(title, figures, missing, scripts)


def page_beside_script(title: str, figures: Mapping[str, Json]) -> str:
    """A page that needs ``PLOTLY_FILE`` in its own directory, so that many pages share one script."""
    return _page(title, figures, {}, f'<script src="{PLOTLY_FILE}"></script><script>{DRAWING_SCRIPT}</script>')


def _page(title: str, figures: Mapping[str, Json], missing: Mapping[str, str], scripts: str) -> str:
    parts = [
        f'<figure id="{escape(name)}" data-source="{escape(name)}-data"></figure>'
        f'<script type="application/json" id="{escape(name)}-data">{_embedded(figure)}</script>'
        for name, figure in figures.items()
    ]
    parts += [f"<p><b>{escape(name)}</b> is not there: {escape(reason)}</p>" for name, reason in missing.items()]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>{"".join(parts)}{scripts}</body></html>'
    )


def _embedded(document: Json) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")
