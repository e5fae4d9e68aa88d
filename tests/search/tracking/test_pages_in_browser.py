"""What a person sees who opens a study in MLflow, in a real browser: the answer, the front, its members, the table of trials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow import MlflowClient

from ..browser import Browser, needs_chromium
from ..scripted_study import HISTORY, ScriptedStudy, recorded

pytestmark = [needs_chromium, pytest.mark.slow]

MEMBER = "[...document.querySelectorAll('#figure-0 .trace')].flatMap(t => [...t.querySelectorAll('.point')]).at(-1)"
ROWS = "[...document.querySelectorAll('a')].filter(a => /^\\d{4}-/.test(a.innerText))"
BY_HEIGHT = "sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)"
TABLE = f"{ROWS}.{BY_HEIGHT}.map(a => a.innerText).filter(name => name !== '0003-lily-r2').join()"  # which has no accuracy


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, mlflow_server: str
) -> tuple[ScriptedStudy, str, dict[int | None, dict[str, Any]]]:
    """A finished study, the address of its pages, and its runs there."""
    scripted = ScriptedStudy(tmp_path_factory.mktemp("shown"), "shown")
    scripted.finish(*HISTORY)
    scripted.ledger.close()
    scripted.record(mlflow_server).sync(final=True)
    experiment = MlflowClient(tracking_uri=mlflow_server).get_experiment_by_name("shown")
    assert experiment is not None
    return scripted, f"{mlflow_server}/#/experiments/{experiment.experiment_id}", recorded(mlflow_server, scripted)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all."""
    with Browser(1800, 1100) as one:
        yield one


def page_of(pages: str, runs: dict[int | None, dict[str, Any]], more: str = "") -> str:
    return f"{pages}/runs/{runs[None]['id']}{more}"


def place(browser: Browser, element: str, *, frame: str | None = None) -> tuple[float, float]:
    """The middle of an element, in the window."""
    middle = f"(e => e && (r => r.width && [r.x + r.width / 2, r.y + r.height / 2])(e.getBoundingClientRect()))({element})"
    x, y = browser.wait(middle, frame=frame)
    if frame is not None:
        left, top = browser.wait(f"(r => [r.x, r.y])(document.querySelector({json.dumps(frame)}).getBoundingClientRect())")
        x, y = x + left, y + top
    return x, y


def test_the_page_of_a_study_opens_with_the_answer_and_leads_to_its_members(browser: Browser, study: Any) -> None:
    """The page of a member: below, where a click opens it."""
    _, pages, runs = study
    browser.open(page_of(pages, runs))
    browser.wait("document.body.innerText.includes('ARC r=2 is the best, 90.00 % with 300 parameters.')")
    browser.wait("[...document.querySelectorAll('button')].find(b => b.innerText === 'Show more')?.click() === undefined")
    browser.wait("[...document.images].some(i => i.src.includes('front-small.png') && i.complete && i.naturalWidth > 700)")
    member = browser.wait("[...document.querySelectorAll('a')].find(a => a.innerText.trim() === '0004')?.href")
    assert member == page_of(pages, runs | {None: runs[4]})
    filtered = browser.wait("[...document.querySelectorAll('a')].find(a => a.innerText.trim() === 'the front')?.href")
    browser.open(filtered)
    browser.wait(f"{TABLE} === '0004-arc-r2,0000-head_only'")


def test_in_mlflow_the_front_tells_the_configuration_pointed_at_and_the_run_clicked(browser: Browser, study: Any) -> None:
    _, pages, runs = study
    browser.open(page_of(pages, runs, "/artifacts/front.html"))
    x, y = place(browser, MEMBER, frame="iframe")
    browser.move(x, y)
    told = browser.wait("document.querySelector('.hoverlayer .hovertext')?.textContent", frame="iframe")
    assert all(words in told for words in ("0004-arc-r2", "90.00 %", "300 parameters", "arc.rank = 2", "optim.lr = 0.001"))
    browser.click(x, y)
    address = browser.wait("document.querySelector('#card a')?.href", frame="iframe")
    assert address == page_of(pages, runs | {None: runs[4]})


def test_outside_mlflow_the_front_needs_no_network_and_a_click_on_a_member_opens_its_run(browser: Browser, study: Any) -> None:
    """The page as a file, which knows the server that the study was recorded by."""
    scripted, pages, runs = study
    browser.open((scripted.path.parent / "front.html").as_uri())
    browser.wait("document.querySelectorAll('.main-svg').length > 4")
    headings = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText)")
    assert headings[:3] == ["The front", "Learning curves", "Every method's own front"]
    assert browser.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('file:')).length") == 0
    links = browser.evaluate("figures[0].data.flatMap(t => (t.customdata || []).map(d => d[2]))")
    assert sorted(links) == sorted(f"#{pages.partition('#')[2]}/runs/{runs[n]['id']}" for n in (0, 1, 2, 4))
    x, y = place(browser, MEMBER)
    browser.move(x, y)
    browser.wait("document.querySelector('.hoverlayer .hovertext')?.textContent.includes('0004-arc-r2')")
    browser.click(x, y)
    browser.follow()
    browser.wait(f"location.href === {json.dumps(page_of(pages, runs | {None: runs[4]}))}")
    browser.wait("document.body.innerText.includes('0004-arc-r2')")


def test_the_table_of_runs_is_sorted_by_accuracy(browser: Browser, study: Any) -> None:
    _, pages, _ = study
    browser.open(f"{pages}/runs?viewStateShareKey=paretune")
    browser.wait(f"{TABLE}.startsWith('0004-arc-r2,0001-lora-r2,')")  # 0.9, 0.85; the other two have 0.7 each
    assert "adapter_params" in browser.evaluate("document.body.innerText")
