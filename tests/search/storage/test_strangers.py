"""Names that a stranger chose, where others may write to the database or the storage: none runs, escapes or prints as it likes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from ..command_line import paretune
from ..postgresql_server import PASSWORD, Server
from ..scripted_study import ScriptedStudy


@pytest.fixture
def mallory(postgresql: Server) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A role of the server that may create schemas, and nothing else; the team's studies are listed while it is there."""
    postgresql.execute(f"CREATE ROLE mallory LOGIN PASSWORD '{PASSWORD}'", "GRANT CREATE ON DATABASE team TO mallory")
    with psycopg.connect(postgresql.address("mallory"), password=PASSWORD, autocommit=True) as connection:
        yield connection
    postgresql.execute("DROP OWNED BY mallory CASCADE", "DROP ROLE mallory")


def is_superuser(server: Server, role: str) -> bool:
    [(found,)] = server.execute(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")  # noqa: S608
    return bool(found)


def test_a_schema_whose_name_holds_sql_is_left_out_in_one_line_and_runs_nothing(
    tmp_path: Path, postgresql: Server, mallory: psycopg.Connection[tuple[object, ...]]
) -> None:
    mallory.execute('CREATE SCHEMA "paretune/x"";ALTER ROLE mallory SUPERUSER;--"')
    listed = paretune("ls", postgresql.address(), cwd=tmp_path)
    assert not is_superuser(postgresql, "mallory")
    assert "ALTER ROLE" not in listed.stdout
    [line] = [line for line in listed.stderr.splitlines() if "ALTER ROLE mallory SUPERUSER" in line]
    assert line.startswith("paretune: left out")


def test_a_schema_with_a_studys_name_that_holds_programs_runs_none(
    tmp_path: Path, postgresql: Server, mallory: psycopg.Connection[tuple[object, ...]]
) -> None:
    mallory.execute('CREATE SCHEMA "paretune/tempting"')
    mallory.execute('GRANT USAGE ON SCHEMA "paretune/tempting" TO PUBLIC')
    mallory.execute('CREATE SEQUENCE "paretune/tempting".calls')  # counts, whatever becomes of the caller's transaction
    mallory.execute('GRANT USAGE ON SEQUENCE "paretune/tempting".calls TO PUBLIC')
    mallory.execute(
        'CREATE FUNCTION "paretune/tempting".f() RETURNS int LANGUAGE sql AS '
        """$$SELECT nextval('"paretune/tempting".calls')::int$$"""
    )
    mallory.execute('CREATE VIEW "paretune/tempting".study AS SELECT "paretune/tempting".f() AS schema_version')
    mallory.execute('GRANT SELECT ON "paretune/tempting".study TO PUBLIC')
    listed = paretune("ls", postgresql.address(), cwd=tmp_path)
    assert postgresql.execute('SELECT is_called FROM "paretune/tempting".calls') == [(False,)]
    assert listed.returncode == 2
    assert "tempting is no ledger of Paretune: its schema holds the function f" in listed.stderr


def test_a_pointer_whose_name_holds_sql_runs_nothing(tmp_path: Path, postgresql: Server) -> None:
    pointer = tmp_path / "paretune-studies" / "p" / "ledger.json"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(json.dumps({"ledger": f'{postgresql.address()}/x";CREATE TABLE public.pwned();--'}))
    told = paretune("status", "p", cwd=tmp_path)
    assert postgresql.execute("SELECT to_regclass('public.pwned')") == [(None,)]
    assert told.returncode == 2
    assert "the address does not end with a study" in told.stderr


def test_an_address_does_not_lead_out_of_the_storage(tmp_path: Path, postgresql: Server) -> None:
    (tmp_path / "evil").mkdir()
    told = paretune("front", f"{postgresql.address()}/../../evil", cwd=tmp_path)
    assert told.returncode == 2
    assert "the address does not end with a study" in told.stderr
    assert list((tmp_path / "evil").iterdir()) == []


def test_a_folder_whose_name_is_no_studys_is_left_out_of_the_list_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    with closing(ScriptedStudy(tmp_path / "paretune-studies", "honest").ledger):
        pass
    (tmp_path / "paretune-studies" / "honest").rename(tmp_path / "paretune-studies" / "red \x1b[31m\u202e")
    with closing(ScriptedStudy(tmp_path / "paretune-studies", "honest").ledger):
        pass
    listed = paretune("ls", cwd=tmp_path)
    assert listed.returncode == 0
    assert "honest" in listed.stdout
    assert listed.stderr.splitlines() == [listed.stderr.strip()]
    assert r"red \x1b[31m\u202e" in listed.stderr
    assert (listed.stdout + listed.stderr).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["../../evil", "\x1b[2J", "x' OR '1'='1"])
def test_a_ledger_whose_own_name_is_no_studys_is_refused(tmp_path: Path, name: str) -> None:
    scripted = ScriptedStudy(tmp_path, "s")
    scripted.ledger.close()
    with closing(sqlite3.connect(scripted.path)) as database:
        database.execute("UPDATE study SET name = ?", [name])
        database.commit()
    for command in (("gc", "s"), ("front", "s"), ("ls",)):
        told = paretune(*command, "--storage", str(tmp_path), cwd=tmp_path)
        assert told.returncode == 2
        assert "a study's name must have" in told.stderr
        assert told.stderr.replace("\n", "").isprintable()
