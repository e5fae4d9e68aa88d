"""The interactive page of a study: one HTML file that contains plotly.js and needs neither network nor server.

MLflow shows such a file in a frame that may not open other pages. So a click on a trial shows a card with its details and the
address of its run as a link. Outside such a frame (the file itself in a browser) the click opens the run.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from search.results.plotly_figures import Figure
from search.storage.whole_file import write_whole

CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


def page(
    title: str, sentence: str, sections: Sequence[tuple[str, str, Figure]], *, more: str = "", server: str | None = None
) -> str:
    """Return the page as HTML.

    Args:
        title: Title of the page.
        sentence: Answer of the study (see `search.results.recommendation`).
        more: Further sentences about the answer.
        sections: Sections of the page, each as (heading, one sentence below it, figure).
        server: Base address of MLflow's pages for the links to runs; None if it is unknown: inside MLflow the page finds it itself.
    """
    parts = []
    for n, (heading, words, _) in enumerate(sections):
        beside = '<aside id="card" hidden></aside>' if n == 0 else ""
        parts.append(
            f"<section><h2>{html.escape(heading)}</h2><p>{html.escape(words)}</p><div id='figure-{n}'></div>{beside}</section>"
        )
    given = f"const figures = {_json([figure for _, _, figure in sections])}, config = {_json(CONFIG)}, server = {_json(server)};"
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>\n"
        f"<style>{_STYLE}</style>\n<script>{_plotly()}</script></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f"<p class='answer'>{html.escape(sentence)}</p>\n<p>{html.escape(more)}</p>\n{''.join(parts)}\n"
        f"<script>{given}\n{_SCRIPT}</script></body></html>\n"
    )


def write(path: Path, text: str) -> None:
    """Write a page atomically."""
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _json(value: object) -> str:
    """Return JSON that is safe inside a script: NaN is null, and no text ends the script."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # also false for NaN
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def _plotly() -> str:
    """Return the plotly.js of plotly's Python package; importing that package itself would take a second."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script")


_STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; color: #222; background: white;
       margin: 0 auto; padding: 20px 28px; max-width: 1180px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 34px 0 0; }
p { margin: 2px 0 8px; color: #555; max-width: 90ch; } p.answer { font-size: 17px; color: #222; }
section { position: relative; }
#card { border: 1px solid #ddd; border-left: 4px solid #0072B2; border-radius: 4px; padding: 10px 16px; font-size: 13px;
        background: #fafafa; }
#card b { font-size: 15px; } #card a { display: inline-block; margin-top: 6px; color: #0072B2; word-break: break-all; }
#card .knobs { color: #555; } .js-plotly-plot .scatterlayer .point { cursor: pointer; }
"""

_SCRIPT = """
figures.forEach((figure, n) => Plotly.newPlot(`figure-${n}`, figure.data, figure.layout, config));
const within = location.protocol === 'blob:' ? location.href.slice(5).replace(/\\/[^/]*$/, '/') : null;
const framed = window.self !== window.top;
const card = document.getElementById('card');
document.getElementById('figure-0').on('plotly_click', event => {
  const point = event.points[0], [number, label, link, knobs] = point.customdata || [];
  if (number === undefined) return;
  const base = server || within;
  card.hidden = false;
  card.innerHTML = point.text + '<br>';
  if (!link) return;
  if (!base) { card.append('Its run: open the study with `paretune ui`.'); return; }
  const anchor = document.createElement('a');
  anchor.href = base + link; anchor.target = '_blank'; anchor.rel = 'noopener'; anchor.id = 'run';
  anchor.textContent = framed ? anchor.href : `Open the run ${label} in MLflow`;
  card.append(anchor);
  if (framed) {
    const how = document.createElement('div');
    how.className = 'knobs';
    how.textContent = "MLflow's preview opens no other pages: right-click the address, or use the description's table.";
    card.append(how);
  } else window.open(anchor.href, '_blank', 'noopener');
});
"""
