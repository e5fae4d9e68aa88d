"""A secret in an address is printed nowhere: every command that the program has is run with canaries, against live servers.

The commands and their parameters are read from the program, so that a new one is tested, or fails here for want of a word.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pyarrow.parquet as pq
import pytest
import typer

from search.cli.app import app
from search.secret import HIDDEN, SecretAddress, hide_secrets
from search.tracking import server as pages
from search.tracking.sync import RecordingError

from ..command_line import paretune
from ..postgresql_server import PASSWORD, Server

CANARY = "canary-7c1f0e"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
STUDY = """
study: watched
data: {{kind: synthetic, noise: 0.01}}
methods: [lora]
budget: {{n_trials: 3, epochs: 2, max_params: 20_000}}
ledger: {ledger}
"""
# A word for each argument, by its name; a study file where the help names one.
WORDS = {
    "study": "watched",
    "studies": "watched",
    "trial": "0",
    "trials": "0",
    "name": "digits",
    "to": "made",
    "method": "lora",
    "source": "vtab1k",
    "root": "nowhere",
    "path": "nowhere",
    "folder": "nowhere",
    "images": "nowhere.png",
    "server": "{ledger}",
}
# What keeps a command short.
OPTIONS = {
    "run": ["--back-end", "in-process"],
    "resume": ["--more-trials", "1", "--back-end", "in-process"],
    "finalize": ["--seeds", "1", "--back-end", "in-process"],
    "suite": ["--back-end", "in-process"],
    "simulate": ["--seeds", "1"],
    "count": ["--backbone", "vit_glyphs"],
}
# Addresses that hold a secret as people write one, for each option or argument that takes an address.
TYPED = {
    "study": [f"postgresql://team:{CANARY}@host/db/s", f"postgresql://team:pa/{CANARY}@host/db/s", f"https://{CANARY}@host/s"],
    "server": [f"postgresql://team:{CANARY}@host/db", f"postgresql://host/db?password={CANARY}", f"postgresql://a:b/{CANARY}@h/d"],
    "storage": [f"s3://AKIA:a/{CANARY}@bucket", f"s3://bucket/folder?X-Amz-Signature={CANARY}", f"https://host/?sig={CANARY}"],
    "address": [f"http://user:{CANARY}@127.0.0.1:1", f"http://{CANARY}@127.0.0.1:1", f"http://127.0.0.1:1/?token={CANARY}"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, postgresql: Server, mlflow_server: str) -> Iterator[Path]:
    """A folder with a study that has been run, on live servers whose addresses hold canaries."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "watched.yaml").write_text(STUDY.format(ledger=postgresql.address()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server.replace("http://", f"http://robot:{CANARY}@"))
        patch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-aws")
        done = paretune("run", "watched.yaml", *OPTIONS["run"], cwd=folder)
        assert done.returncode == 0, done.stderr
        assert_hidden(done.stdout + done.stderr)
        yield folder
    postgresql.execute('DROP SCHEMA "paretune/watched" CASCADE')


def words(command: str, ledger: str, typed: tuple[str, str] = ("", "")) -> list[str]:
    """A command line: a word for each argument, with one of them, or an option, replaced by a typed address."""
    name, address = typed
    found = [command]
    for one in COMMANDS[command].params:
        if one.param_type_name == "argument":
            word = (
                "watched.yaml" if one.name == "study" and ".yaml" in (one.metavar or "") else WORDS[one.name].format(ledger=ledger)
            )
            found.append(address if one.name == name else word)
        elif one.name == name or (one.name == "address" and one.required):
            found += [one.opts[0], address if one.name == name else "http://127.0.0.1:1"]
    return found + OPTIONS.get(command, [])


def assert_hidden(text: str) -> None:
    assert CANARY not in text
    assert PASSWORD not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_a_secret_of_its_servers(command: str, home: Path, postgresql: Server) -> None:
    done = paretune(*words(command, postgresql.address()), cwd=home)
    assert done.stdout + done.stderr
    assert_hidden(done.stdout + done.stderr)
    away = paretune(
        *words(command, postgresql.address()), cwd=home, MLFLOW_TRACKING_URI=f"http://robot:{CANARY}@127.0.0.1:1/?token={CANARY}"
    )
    assert_hidden(away.stdout + away.stderr)


@pytest.mark.parametrize(
    ("command", "name", "address"),
    [
        (command, one.name, address)
        for command, has in COMMANDS.items()
        for one in has.params
        for address in TYPED.get(one.name, [])
        if ".yaml" not in (one.metavar or "")
    ],
)
def test_no_command_repeats_a_secret_that_was_typed(command: str, name: str, address: str, home: Path, postgresql: Server) -> None:
    done = paretune(*words(command, postgresql.address(), (name, address)), cwd=home)
    assert done.returncode == 2, done.stdout
    assert_hidden(done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", TYPED["address"])
def test_no_command_repeats_the_address_of_a_cluster(address: str, home: Path) -> None:
    for said in (paretune("--address", address, "front", "watched", cwd=home), paretune("doctor", cwd=home, RAY_ADDRESS=address)):
        assert said.returncode == 2
        assert_hidden(said.stdout + said.stderr)
        assert "may hold a secret" in said.stderr


def test_a_job_takes_no_secret_along(home: Path) -> None:
    for address in (f"https://{CANARY}@mlflow", f"https://mlflow/?token={CANARY}", f"https://me:a/{CANARY}@mlflow"):
        said = paretune(
            "submit", "digits", "--address", "http://127.0.0.1:1", "--storage", "/s", cwd=home, MLFLOW_TRACKING_URI=address
        )
        assert said.returncode == 2
        assert_hidden(said.stdout + said.stderr)
        assert "MLFLOW_TRACKING_URI contains a password or a token" in said.stderr


def test_no_file_no_artifact_and_no_row_holds_a_secret(
    home: Path, postgresql: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = [home, *tmp_path_factory.getbasetemp().glob("mlflow*")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names >= {"front.html", "mlflow.json", "paretune.log", "ledger.json", "trials.parquet", "mlflow.db"}
    for path in files:
        text = path.read_bytes()
        if path.suffix == ".parquet":  # compressed
            table = pq.read_table(path)
            text += json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str).encode()
        assert CANARY.encode() not in text, path
        assert PASSWORD.encode() not in text, path
    tables = postgresql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'paretune/watched'")
    assert tables
    for (name,) in tables:
        assert_hidden(str(postgresql.execute(f'SELECT * FROM "paretune/watched"."{name}"')))  # noqa: S608


def test_the_pages_server_has_no_secret_among_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://bob:{CANARY}@127.0.0.1:1/mlflow")
    seen: list[str] = []
    end = pages._end

    def look_and_end(process: Any) -> None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        seen.extend(word for one in family for word in one.cmdline())
        end(process)

    monkeypatch.setattr(pages, "_end", look_and_end)
    with pytest.raises(RecordingError) as told:
        pages.serve(tmp_path, start_timeout=0.0)
    assert "server" in seen
    assert_hidden(" ".join(seen) + str(told.value))


# -- the type ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (f"http://bob:{CANARY}@host:5000/path", "http://host:5000/path"),
        (f"https://bob:a/{CANARY}?b#c@host", "https://host"),
        (f"https://{CANARY}@host/", "https://host/"),
        (f"https://host/path?token={CANARY}", "https://host/path"),
        (f"https://host/path?sig={CANARY}&region=x", "https://host/path"),
        (f"s3://KEY:{CANARY}/x@bucket/folder", "s3://bucket/folder"),
        (f"postgresql://bob:{CANARY}@host/db?sslmode=require", "postgresql://host/db?sslmode=require"),
        (f"postgresql+psycopg://host/db?password={CANARY}", "postgresql+psycopg://host/db"),
        ("postgresql://team@host:5432/db?sslmode=require", "postgresql://team@host:5432/db?sslmode=require"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_shows_no_secret_in_any_form_and_is_revealed_whole(given: str, shown: str) -> None:
    address = SecretAddress(given)
    assert str(address) == shown
    record = logging.LogRecord("a", logging.INFO, "b", 1, "at %s %r", (address, address), None).getMessage()
    forms = [f"{address} {address!r} {address:>90}", json.dumps({"a": address}), repr(pickle.loads(pickle.dumps(address))), record]  # noqa: S301
    assert all(CANARY not in form for form in [*forms, address + "/x", "/".join([address])])
    assert SecretAddress(address).reveal() == given
    assert CANARY not in address.hide(f"cannot reach {given}: HTTPConnectionPool(url='/{given.partition('://')[2]}')")


def test_the_last_net_takes_secrets_of_the_environment_and_the_command_line_out_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    assert hide_secrets(f"a {CANARY} b") == f"a {HIDDEN} b"
    monkeypatch.delenv("SOME_TOKEN")
    monkeypatch.setattr(sys, "argv", ["paretune", "--set", f"data.path=https://host/?sig={CANARY}"])
    assert CANARY not in hide_secrets(f"--set data.path=https://host/?sig={CANARY} and {CANARY}")
    assert "PATH" in os.environ
    assert hide_secrets("ordinary words stay") == "ordinary words stay"


def test_the_driver_shows_no_password_in_its_errors(postgresql: Server) -> None:
    with pytest.raises(psycopg.OperationalError) as told, closing(psycopg.connect(postgresql.address(), password=CANARY)):
        pass
    assert CANARY not in str(told.value)
