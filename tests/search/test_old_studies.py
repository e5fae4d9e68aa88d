"""Studies, checkpoints and exports of an earlier version open, look as they looked, resume and finish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from typer.testing import CliRunner

from search.cli.app import app
from search.config.loading import check
from search.errors import RequestError
from search.results.saved_study import SavedStudy, load
from search.results.study_state import StudyState
from search.storage.events import EVENTS, EventKind, check_detail
from search.storage.sql_ledger import open_ledger
from search.study.user_requests import read_answers, write_requests
from search.trial import State
from search.workflows import run
from search.workflows.finalize import finalized
from trainables.export import load_adapter

if TYPE_CHECKING:
    from .postgresql_server import Server

OLD = Path(__file__).parent / "old"
SHOWN = (0, 3, 8, 9, 11)  # trials


@pytest.fixture(params=["half", "half-pg"])
def study(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an old study, in the storage of the current folder."""
    monkeypatch.chdir(tmp_path)
    name = request.param
    folder = tmp_path / "paretune-studies" / name
    shutil.copytree(OLD / ("sqlite" if name == "half" else "postgresql") / name, folder)
    if name == "half":
        yield folder
        return
    server: Server = request.getfixturevalue("postgresql")
    server.execute((OLD / "postgresql" / "half-pg.sql").read_text())
    for pointer in (folder / "ledger.json", folder / "final" / "ledger.json"):
        below = "/final" if pointer.parent != folder else ""
        pointer.write_text(json.dumps({"ledger": f"{server.address()}/half-pg{below}"}))
    yield folder
    server.execute('DROP SCHEMA "paretune/half-pg" CASCADE', 'DROP SCHEMA "paretune/half-pg/final" CASCADE')


def printed(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    return result.stdout


def expected(study: Path, name: str) -> str:
    return (OLD / "json" / study.name / f"{name}.json").read_text()


def test_the_commands_print_what_they_printed_then(study: Path) -> None:
    name = study.name
    shown = json.loads(printed("front", name))
    assert all(0.0 <= member.pop("p_front") <= 1.0 for member in shown["members"])  # a field that has come since
    assert shown == json.loads(expected(study, "front"))
    assert printed("trials", name) == expected(study, "trials")
    assert printed("trials", name, "--rejected") == expected(study, "rejected")
    assert printed("status", name) == expected(study, "status")
    assert printed("shares", name) == expected(study, "shares")
    there, then = (json.loads(text) for text in (printed("ls"), expected(study, "ls")))
    assert there | {"packaged": then["packaged"]} == then
    assert set(then["packaged"]) < set(there["packaged"])  # others have come since
    for number in SHOWN:
        assert printed("show", name, str(number)) == expected(study, f"show-{number}")


def test_methods_and_counts_are_printed_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    methods = json.loads(printed("methods"))
    then = json.loads(expected(Path("half"), "methods"))
    known = {row["method"] for row in then["methods"]}  # others have come since
    methods["methods"] = [row for row in methods["methods"] if row["method"] in known]
    for row in (*methods["methods"], *then["methods"]):
        for knob in row["knobs"]:
            del knob["source"]  # a citation, which may be corrected
    assert methods == then
    count = ["count", "--method", "lora", "--backbone", "vit_base_patch16_224", "--set", "rank=8"]
    assert printed(*count) == expected(Path("half"), "count")


def test_its_events_follow_their_definitions(study: Path) -> None:
    with open_ledger(study) as ledger:
        events = ledger.events()
    for event in events:
        check_detail(event.kind, event.trial, event.detail)
    assert {event.kind for event in events} >= {EventKind.LOST, EventKind.MOVED, EventKind.MEASURED, EventKind.EXTENDED}
    assert set(EVENTS) == set(EventKind)


def test_it_resumes_at_its_checkpoints_and_finishes(study: Path) -> None:
    def resume() -> SavedStudy:
        saved = load(study)
        file = check(saved.row.file).kept_in(study.parent, saved.row.facts.checkpoints)
        return run.run(file, back_end="in-process", say=print)

    with open_ledger(study) as ledger:
        before, reports = ledger.events(), ledger.reports()
    assert read_answers(study, write_requests(study, "unpause", [8], {})) is not None
    saved = resume()
    assert saved.state is StudyState.FINISHED
    assert len(saved.history) == 13
    assert {trial.state for trial in saved.history} <= {State.COMPLETE, State.PRUNED}
    assert [saved.history[number].n_attempts for number in (8, 9, 11, 12)] == [2, 3, 2, 2]
    with open_ledger(study) as ledger:
        assert ledger.events()[: len(before)] == before
        assert ledger.reports()[: len(reports)] == reports
        assert not any(event.kind is EventKind.RESTARTED for event in ledger.events())
        epochs = [(report.trial, report.epoch) for report in ledger.reports()]
    assert len(epochs) == len(set(epochs))
    assert {member.number for member in saved.members} >= {0}


def test_what_its_front_did_on_the_test_split_is_read_back(study: Path) -> None:
    members = finalized(load(study))
    assert [(member.trial.number, round(100 * member.mean, 2)) for member in members] == [(0, 97.24), (6, 97.74), (3, 97.74)]


@pytest.mark.parametrize("n_bytes", [0, 50])
def test_test_results_that_a_power_cut_has_halved_are_named(tmp_path: Path, n_bytes: int) -> None:
    folder = Path(shutil.copytree(OLD / "sqlite" / "half", tmp_path / "half"))
    path = folder / "final" / "trials" / "0001" / "correct.npy"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(RequestError, match=r"0001/correct\.npy is not whole"):
        finalized(load(folder))


def test_an_exported_adapter_loads_on_its_backbone() -> None:
    import trainables.backbones  # noqa: F401 - registers vit_glyphs

    model = timm.create_model("vit_glyphs", num_classes=10, pretrained=True).eval()
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        before = model(images)
        card = load_adapter(model, OLD / "adapter")
        after = model(images)
    assert (card.origin["study"], card.origin["trial"], card.epochs["done"]) == ("half", 3, 3)
    assert torch.isfinite(after).all()
    assert not torch.allclose(before, after)
