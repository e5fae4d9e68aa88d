"""The address of a ledger on a server."""

import pytest

from search.storage.address import Address, check_server, parse_address


@pytest.mark.parametrize(
    "server",
    [
        "postgresql://host/team",
        "postgres://me@host:5433/team",
        "postgresql://me@one:5432,two:5433/team?target_session_attrs=read-write",
        "postgresql:///team?host=/run/postgresql",
    ],
)
def test_a_study_adds_its_name_to_the_database_and_an_address_reads_back(server: str) -> None:
    assert check_server(server) == server
    address = Address(server, "flowers")
    assert parse_address(str(address)) == address
    assert parse_address(str(address.final())) == Address(server, "flowers/final")
    assert str(Address("postgresql://host/team?sslmode=require", "s")) == "postgresql://host/team/s?sslmode=require"


@pytest.mark.parametrize(
    "text", ["", "host/team", "mysql://host/team", "postgresql://host", "postgresql://host/", "postgresql://h/a//b"]
)
def test_what_is_no_address_is_refused_with_its_form(text: str) -> None:
    for read in (check_server, parse_address):
        with pytest.raises(ValueError, match="postgresql://"):
            read(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:geheim@host/team",
        "postgresql://me:geheim@one,two/team",
        "postgresql://host/team?password=geheim",
        "postgresql://host/team?sslmode=require&sslpassword=geheim",
    ],
)
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    for read in (check_server, parse_address):
        with pytest.raises(ValueError, match="PGPASSWORD") as told:
            read(text)
        assert "geheim" not in str(told.value)


def test_one_database_is_no_study_and_a_study_no_database() -> None:
    with pytest.raises(ValueError, match="/study"):
        parse_address("postgresql://host/team")
    with pytest.raises(ValueError, match="one name after the server"):
        check_server("postgresql://host/team/flowers")


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    assert Address("postgresql://host/team", "s" * 48).study == "s" * 48
    with pytest.raises(ValueError, match="at most 48"):
        Address("postgresql://host/team", "s" * 49)


@pytest.mark.parametrize("study", ["", "..", "../../evil", "a/b", "final/../x", 'x";--', "x\n", "\x1b[2J", "a/final/final"])
def test_an_address_holds_a_studys_name_however_it_is_made(study: str) -> None:
    with pytest.raises(ValueError, match="a study's name must have"):
        Address("postgresql://host/team", study)
    with pytest.raises(ValueError, match=r"postgresql://|a study's name"):
        parse_address(f"postgresql://host/team/{study}")
