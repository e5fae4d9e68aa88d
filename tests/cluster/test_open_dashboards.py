"""A dashboard that gives its answers without a token is refused, through a tunnel too, and never passed because it is slow."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cluster import open_dashboards
from cluster.open_dashboards import open_to_anyone

Server = Callable[[int, list[str]], str]


@pytest.fixture
def server() -> Iterator[Server]:
    """Makes the other end of a tunnel: what Ray's dashboard answers with a status, from a cluster of these machines."""
    running: list[http.server.ThreadingHTTPServer] = []

    def serve(status: int, machines: list[str]) -> str:
        class Dashboard(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                summary = {"data": {"summary": [{"ip": machine} for machine in machines]}}
                self.wfile.write(json.dumps(summary if self.path.startswith("/nodes") else []).encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
        running.append(made)
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{made.server_port}"

    yield serve
    for made in running:
        made.shutdown()
        made.server_close()


@pytest.mark.parametrize(
    ("status", "machines", "found"),
    [
        (401, ["10.0.0.7"], None),
        (403, ["10.0.0.7"], None),
        (200, ["127.0.0.1"], None),
        (200, ["10.0.0.7"], "accepts jobs from anyone who can reach it"),
        (200, ["127.0.0.1", "10.0.0.7"], "accepts jobs from anyone who can reach it"),
        (503, [], "does not say whether it asks for a token (HTTP status 503)"),
    ],
)
def test_a_loopback_address_may_be_a_tunnel(server: Server, status: int, machines: list[str], found: str | None) -> None:
    address = server(status, machines)
    assert open_to_anyone(address) == (None if found is None else f"{address} {found}")


def test_a_cluster_that_takes_its_time_is_not_taken_for_a_protected_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_dashboards, "_ANSWERS_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = open_to_anyone(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found is not None
    assert "does not say within" in found


def test_a_cluster_that_cannot_be_reached_is_told_by_the_client() -> None:
    assert open_to_anyone("http://127.0.0.1:1") is None
