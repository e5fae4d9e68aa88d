"""The doctor's findings: each law, what breaks it, and the remedy."""

from pathlib import Path
from typing import Any

import pytest

from cluster import health


def test_this_machine_is_well() -> None:
    assert [finding for finding in health.machine(health.here()) if not finding.good] == []


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"python": "3.10.4"}, "python", "install Python 3.11 or newer"),
        ({"versions": {"torch": "2.9.1+cu128"}}, "torch", "known vulnerabilities below 2.10: pip install 'torch>=2.10'"),
        ({"versions": {"mlflow": "3.16.0"}}, "mlflow", "known vulnerabilities below 3.17: pip install 'mlflow>=3.17'"),
        ({"versions": {"ray": "2.9.0"}}, "ray", "known vulnerabilities below 2.56: pip install 'ray>=2.56'"),
        ({"versions": {"timm": None}}, "timm", "or submit with --pip"),
        (
            {"packages": {"search": "/a/search", "spaces": "/b/spaces"}},
            "our packages",
            "one of search, trainables, spaces, cluster is another project's",
        ),
        ({"packages": {"search": None, "spaces": "/b/spaces"}}, "our packages", "use an environment of Paretune's own"),
    ],
)
def test_what_is_wrong_is_found_with_its_remedy(change: dict[str, Any], what: str, remedy: str) -> None:
    [bad] = [finding for finding in health.machine(health.here() | change) if not finding.good]
    assert bad.what == what
    assert remedy in bad.remedy


def test_versions_with_a_local_part_and_of_two_digits_are_compared_as_numbers() -> None:
    found = health.here() | {"versions": {"torch": "2.10.0+cpu", "ray": "2.100.1", "mlflow": "4.0"}}
    assert all(finding.good for finding in health.machine(found))


def test_a_storage_that_cannot_be_written_is_found_and_one_that_can_is_left_clean(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not health.storage(tmp_path / "file" / "studies").good
    assert health.storage(tmp_path / "studies").good
    assert list((tmp_path / "studies").iterdir()) == []


def test_a_tracking_server_that_does_not_answer_is_found() -> None:
    found = health.tracking("http://127.0.0.1:1")
    assert not found.good
    assert found.remedy == "start the server, or unset MLFLOW_TRACKING_URI"
    assert health.tracking("sqlite:///x.db").good
