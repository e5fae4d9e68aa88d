"""A cluster whose head has no job agent (another Ray has its port) is said in one line, with the remedy, by every command."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from ..search.command_line import paretune

RAYS_ANSWER = "No available agent to submit job, please try again later."  # status 500, after ten seconds


@contextmanager
def dashboard(agent_port: int | None, answer: str = RAYS_ANSWER) -> Iterator[tuple[str, list[str]]]:
    """What Ray 2.60's dashboard answers, where the head's agent has this port; and the requests that it got."""
    asked: list[str] = []

    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            head = {"isHeadNode": True} | ({} if agent_port is None else {"dashboardAgentListenPort": agent_port})
            worker = {"isHeadNode": False, "dashboardAgentListenPort": -1}  # takes no jobs anyway
            summary = {"data": {"summary": [{"ip": "127.0.0.1", "raylet": one} for one in (worker, head)]}}
            answers = {"/nodes?view=summary": summary, "/api/version": {"version": "4", "ray_version": "2.60.0"}, "/api/jobs/": []}
            self._say(200, json.dumps(answers.get(self.path, {"package": "there"})))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._say(500, answer)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._say(200, "{}")

        def _say(self, status: int, text: str) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "digits.yaml"
    asked = {"study": "asked", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    file.write_text(yaml.safe_dump(asked))
    return file


@pytest.mark.parametrize("command", ["doctor", "submit", "plan"])
def test_a_head_without_an_agent_is_said_at_once_and_before_anything_is_uploaded(command: str, study: Path) -> None:
    words = {
        "doctor": ("doctor", "--storage", "/studies"),
        "submit": ("submit", str(study), "--storage", "/studies"),
        "plan": ("plan", str(study)),
    }
    with dashboard(-1) as (address, asked):
        began = time.monotonic()
        done = paretune(*words[command], "--address", address, cwd=study.parent)
        took = time.monotonic() - began
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()  # `plan` says what it does
    assert "Traceback" not in done.stderr
    assert line.startswith(f"paretune: {address} takes no jobs: its head has no job agent")
    assert "--dashboard-agent-listen-port" in line
    assert took < 5.0  # Ray itself waits for ten
    assert not [request for request in asked if request.startswith(("POST", "PUT"))]


@pytest.mark.parametrize("agent_port", [None, 52365])
def test_rays_own_answer_is_understood_where_the_agents_port_cannot_be_read(agent_port: int | None, study: Path) -> None:
    with dashboard(agent_port) as (address, _):
        done = paretune("doctor", "--storage", "/studies", "--address", address, cwd=study.parent)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "its head has no job agent" in line


def test_another_answer_of_the_cluster_is_repeated_in_one_line(study: Path) -> None:
    with dashboard(52365, "the disk is full\n  File ...") as (address, _):
        done = paretune("doctor", "--storage", "/studies", "--address", address, cwd=study.parent)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "does not do what was requested" in line
    assert "the disk is full" in line
