"""Files of tests that share a server run one after the other in one process, so that the server is started once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pytest
from xdist.scheduler import LoadFileScheduling

# The fixture that starts the server, and the files that use it.
FILES_OF_SERVER = {
    "head": ("tests/cluster/test_jobs.py", "tests/cluster/test_nodes.py"),
    "embedded_ray": (
        "tests/cluster/test_connect.py",
        "tests/search/backends/test_back_ends.py",
        "tests/search/cli/test_control.py",
        "tests/search/config/test_trial_resources.py",
        "tests/search/workflows/test_finalize.py",
        "tests/search/workflows/test_own_methods.py",
    ),
    "mlflow_server": (
        "tests/search/cli/test_secrets.py",
        "tests/search/tracking/test_bad_mlflow.py",
        "tests/search/tracking/test_pages_in_browser.py",
        "tests/search/tracking/test_permissions.py",
        "tests/search/tracking/test_server.py",
        "tests/search/tracking/test_sync.py",
    ),
}
SERVER_OF_FILE = {file: server for server, files in FILES_OF_SERVER.items() for file in files}


class ByFileAndServer(LoadFileScheduling):
    """Give the tests of a file to one process, and so the files of a server."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SERVER_OF_FILE.get(file, file)


def check_that_all_are_known(items: Iterable[pytest.Item]) -> None:
    """Refuse a file that uses one of these servers and is not listed here."""
    for item in items:
        file = item.nodeid.split("::", 1)[0]
        for server in FILES_OF_SERVER.keys() & set(cast(pytest.Function, item).fixturenames):
            if SERVER_OF_FILE.get(file) != server:
                raise pytest.UsageError(f"{file} uses {server}: list it in tests/shared.py")
