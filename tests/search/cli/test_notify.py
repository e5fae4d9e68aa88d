"""The end of a search is told to an address and to a command, and neither can harm the search."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from search.results.saved_study import load
from search.workflows.notify import notice_of_error

from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

SYNTHETIC = """
study: syn
data: {kind: synthetic}
methods: [lora]
budget: {n_trials: 2, epochs: 1, max_params: 20_000}
"""
RUN = ("run", "syn.yaml", "--back-end", "in-process")


@dataclass
class Hook:
    """A web address, its answer, and what was posted to it."""

    url: str = ""
    status: int = 204
    posted: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            made.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(made.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}/of-a-team"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "syn.yaml").write_text(SYNTHETIC)
    return tmp_path


def test_the_end_is_posted_and_the_command_runs_after_it(home: Path, hook: Hook) -> None:
    with_mlflow_database(home / "paretune-studies")
    then = 'echo "$PARETUNE_STUDY|$PARETUNE_STATE|$PARETUNE_REASON|$PARETUNE_ANSWER" >> told'
    done = paretune(*RUN, "--then", then, cwd=home, PARETUNE_NOTIFY=hook.url)
    assert done.returncode == 0, done.stderr
    study = load(home / "paretune-studies" / "syn")
    [posted] = hook.posted
    assert posted["study"] == "syn"
    assert posted["state"] == "FINISHED"
    assert posted["reason"] == "finished"
    assert posted["answer"] == study.answer
    assert posted["text"] == f"syn is FINISHED: {study.answer}"
    assert (home / "told").read_text() == f"syn|FINISHED|finished|{study.answer}\n"
    resumed = paretune("resume", "syn", "--more-trials", "1", "--back-end", "in-process", "--then", "exit 3", cwd=home)
    assert resumed.returncode == 0
    assert "--then: the command has ended with exit status 3" in resumed.stderr
    assert len(hook.posted) == 1  # only who asks for a message gets one


@pytest.mark.parametrize("status", [500, None])
def test_an_address_that_takes_no_message_fails_nothing(status: int | None, home: Path, hook: Hook) -> None:
    with_mlflow_database(home / "paretune-studies")
    hook.status = status or 0
    url = hook.url if status else "http://127.0.0.1:1/of-a-team"
    done = paretune(*RUN, "--notify", url, cwd=home)
    assert done.returncode == 0
    assert "--notify: 127.0.0.1 has not taken the message about syn" in done.stderr
    assert "of-a-team" not in done.stderr  # a path may be a secret
    assert load(home / "paretune-studies" / "syn").state.value == "FINISHED"


def test_a_search_that_fails_is_told_with_its_error(home: Path, hook: Hook) -> None:
    (home / "paretune-studies").write_text("no folder")
    done = paretune(*RUN, "--notify", hook.url, "--then", "echo $PARETUNE_STATE > told", cwd=home)
    assert done.returncode != 0
    [posted] = hook.posted
    assert (posted["study"], posted["state"], posted["answer"]) == ("syn", "FAILED", "")
    assert posted["reason"]
    assert (home / "told").read_text() == "FAILED\n"


def test_a_signal_is_told_as_an_interruption() -> None:
    notice = notice_of_error("syn", "folder", KeyboardInterrupt())
    assert (notice.state, notice.reason) == ("INTERRUPTED", "interrupted")


@pytest.mark.parametrize("key", ["then: touch harmed", "notify: {command: touch harmed}", "notify: http://127.0.0.1:1/"])
def test_a_study_file_can_name_neither(key: str, home: Path) -> None:
    with (home / "syn.yaml").open("a") as file:
        file.write(f"{key}\n")
    done = paretune(*RUN, cwd=home)
    assert done.returncode == 2
    assert key.partition(":")[0] in done.stderr
    assert not (home / "harmed").exists()


@pytest.mark.parametrize("url", ["hooks.example.org", "ftp://example.org/x", "https://", "file:///etc/passwd"])
def test_what_is_no_web_address_is_refused_before_anything_runs(url: str, home: Path) -> None:
    done = paretune(*RUN, "--notify", url, cwd=home)
    assert done.returncode == 2
    assert "--notify: give an address like" in done.stderr
    assert not (home / "paretune-studies").exists()


@pytest.mark.parametrize("command", [("submit", "syn.yaml"), ("--address", "http://127.0.0.1:1", "resume", "syn")])
def test_an_address_with_a_secret_is_not_put_on_the_dashboard_of_a_cluster(command: tuple[str, ...], home: Path) -> None:
    url = "https://me:hunter2hunter2@example.org/x"
    done = paretune(*command, "--notify", url, cwd=home, PARETUNE_ADDRESS="http://127.0.0.1:1")
    assert done.returncode == 2
    assert "set PARETUNE_NOTIFY in the environment of the cluster's machines" in done.stderr
    assert "hunter2" not in done.stderr
