"""The README's pictures of the packaged study: `python benchmarks/pictures.py [--storage paretune-studies]`.

The study `emoji` in the storage has been run (`paretune run`). Its front is copied, and the pages that MLflow shows of it are
photographed in Chromium, into docs/images.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

from mlflow import MlflowClient

import search
from tests.search.browser import Browser
from tests.search.mlflow_server import server_in

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FRAME = "iframe"
POINTS = "[...document.querySelectorAll('#figure-0 .trace .point')]"
TRAINING = "[...document.querySelectorAll('label, button, span')].find(e => e.innerText === 'Model training')"
SMALL = "[...document.images].some(i => i.src.includes('front-small.png') && i.complete && i.naturalWidth > 700)"
PATH = (
    "[...document.querySelectorAll('*')].filter(e => e.innerText?.startsWith('Path: file:') && !e.querySelector('iframe'))"
    ".forEach(e => e.style.opacity = 0)"
)
ASSISTANT = "[...document.querySelectorAll('button[aria-label*=\"lose\"]')].forEach(button => button.click())"


def photograph(storage: Path, name: str) -> None:
    """Write mlflow-study.png, mlflow-front.png and mlflow-trials.png."""
    with server_in(storage) as server, Browser(1600, 1000) as browser:
        client = MlflowClient(tracking_uri=server)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise SystemExit(f"{storage} has no study {name}; run it first: paretune run --storage {storage}")
        pages = f"{server}/#/experiments/{experiment.experiment_id}"
        [study] = client.search_runs([experiment.experiment_id], "tags.`paretune.n_ended` != ''")
        page = f"{pages}/runs/{study.info.run_id}"

        browser.open(page)
        browser.wait(
            f"{TRAINING} && ({TRAINING}.click(), true)"
        )  # the mode of MLflow whose menu speaks of runs, which it remembers
        browser.open("about:blank")
        browser.open(page)
        browser.wait("document.body.innerText.includes('validation images') || document.body.innerText.includes('Show more')")
        browser.evaluate(ASSISTANT)
        browser.evaluate("[...document.querySelectorAll('button')].find(b => b.innerText === 'Show more')?.click()")
        browser.wait(SMALL)
        browser.screenshot(IMAGES / "mlflow-study.png")

        browser.open(f"{page}/artifacts/front.html")
        browser.wait(f"{POINTS}.length > 20", frame=FRAME)
        middle = "(r => [r.x + r.width / 2, r.y + r.height / 2])"
        member = f"{POINTS}.sort((a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y)[{POINTS}.length >> 1]"
        x, y = browser.evaluate(f"{middle}({member}.getBoundingClientRect())", frame=FRAME)
        left, top = browser.evaluate(f"(r => [r.x, r.y])(document.querySelector('{FRAME}').getBoundingClientRect())")
        browser.move(x + left, y + top)
        browser.wait("document.querySelector('.hoverlayer .hovertext')?.textContent", frame=FRAME)
        browser.evaluate(PATH)  # of this machine
        browser.screenshot(IMAGES / "mlflow-front.png")

        browser.open(f"{pages}/runs?viewStateShareKey=paretune")
        best = max(search.load(storage / name).members, key=lambda trial: trial.objectives[0])
        browser.wait(f"document.body.innerText.includes('{best.label}')")
        browser.screenshot(IMAGES / "mlflow-trials.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, default=Path("paretune-studies"))
    parser.add_argument("--study", default="emoji")
    asked = parser.parse_args()
    shutil.copy(asked.storage / asked.study / "front.png", IMAGES / "front.png")
    photograph(asked.storage.resolve(), asked.study)


if __name__ == "__main__":
    main()
