"""What a job takes along is small, ours, and tells no secrets."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster import upload
from search.config.loading import check

SMALLEST = {"study": "s", "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}


def test_the_staged_packages_run_without_an_installed_paretune_and_know_their_version(tmp_path: Path) -> None:
    upload.stage(tmp_path, {"study.yaml": "study: s\n"})
    version = "importlib.metadata.distribution('paretune').locate_file('.').resolve()"
    program = f"import search, importlib.metadata; print(search.__file__); print({version})"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(Path(line).is_relative_to(tmp_path) for line in done.stdout.splitlines()), done.stdout
    assert (tmp_path / "study.yaml").read_text() == "study: s\n"


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("a: 1\nb: https://ann:secret@example.org\n", "study.yaml, line 2: a password in an address"),
        ("b: s3://AKIA:a/b+secret@bucket\n", "study.yaml, line 1: a password in an address"),
        ("b: https://secret@example.org/x\n", "study.yaml, line 1: a token in an address"),
        ("b: https://example.org/x?a=1&sig=secret@\n", "study.yaml, line 1: a secret in the query"),
        ("b: https://example.org/x?X-Amz-Signature=secret@\n", "study.yaml, line 1: a secret in the query"),
        ("AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMI/K7MDENGsecret@\n", "study.yaml, line 1: a secret key"),
        ("key: sk-abcdefghijklmnopqrstuvwx\n", "study.yaml, line 1: an access key"),
        ("key: AKIAABCDEFGHIJKLMNOP\n", "study.yaml, line 1: an access key"),
        ("-----BEGIN RSA PRIVATE KEY-----\n", "study.yaml, line 1: a private key"),
    ],
)
def test_a_secret_is_not_sent_and_not_repeated(tmp_path: Path, text: str, law: str) -> None:
    with pytest.raises(ValueError, match=law) as refused:
        upload.stage(tmp_path, {"study.yaml": text})
    assert "secret@" not in str(refused.value)
    assert "AKIAABC" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["ledger: postgresql://team@db:5432/team?sslmode=require&sslkey=/k\n", "storage: s3://b/f?region=eu\n"]
)
def test_an_address_without_a_secret_is_sent(tmp_path: Path, text: str) -> None:
    upload.stage(tmp_path, {"study.yaml": text})
    assert (tmp_path / "study.yaml").read_text() == text


@pytest.mark.slow
def test_what_is_too_large_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"5\d MiB, at most 50 are allowed"):
        upload.stage(tmp_path, {"large": " " * (50 * 2**20)})


def test_every_path_of_this_machine_is_named(tmp_path: Path) -> None:
    file = check(
        {
            **SMALLEST,
            "data": {"kind": "imagefolder", "path": "images"},
            "backbone": {"name": "vit_tiny_patch16_224", "weights": "mine.safetensors"},
        }
    )
    named = [problem.partition(":")[0] for problem in upload.local_paths(file.resolved(), Path("studies"))]
    assert named == ["storage", "data.path", "backbone.weights"]
    assert list(upload.local_paths(check(SMALLEST | {"data": {"kind": "digits"}}).resolved(), tmp_path)) == []


def test_the_requirements_are_those_of_the_package_without_its_extras() -> None:
    plain = upload.requirements()
    assert any(line.startswith("ray[") for line in plain)
    assert not any(line.startswith(("pytest", "peft", "psycopg")) for line in plain)
    assert any(line.startswith("psycopg") for line in upload.requirements(postgres=True))
