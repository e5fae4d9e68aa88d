"""The tables of a ledger, and the migration of ledgers written by an older Paretune.

A ledger's version is in its `study` row. Each migration step goes from one version to the next, is written with Alembic's
operations, so that it is the same on every database, only adds to the schema, and runs in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

VERSION = 2

metadata = sa.MetaData()

study = sa.Table(
    "study",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("uid", sa.String, nullable=False),  # distinguishes two studies of one name
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("file", sa.JSON, nullable=False),  # the resolved study file
    sa.Column("facts", sa.JSON, nullable=False),  # measured once: n_classes, backbone_params, reference_point, versions
)
trials = sa.Table(
    "trials",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("adapter_params", sa.BigInteger, nullable=False),
    sa.Column("head_params", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("rung", sa.Integer),
    sa.Column("n_attempts", sa.Integer, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("finished", sa.Float),
    sa.Column("extends", sa.Integer),  # since 2: the trial whose checkpoint this one resumes from
    sa.Column("planned_epochs", sa.Integer),  # since 2: of an extended trial; null for the budget's
)
reports = sa.Table(
    "reports",
    metadata,
    sa.Column("trial", sa.Integer, sa.ForeignKey("trials.number"), primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("event", sa.Integer, nullable=False, unique=True),
    sa.Column("metrics", sa.JSON, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False, index=True),  # ledgers of before this index are read more slowly
    sa.Column("trial", sa.Integer),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
)
owner = sa.Table(
    "owner",
    metadata,
    sa.Column("token", sa.String, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_start", sa.String, nullable=False),  # distinguishes the owner from a reused process number
    sa.Column("heartbeat", sa.Float, nullable=False),
    sa.Column("machine", sa.String),  # since 2: distinguishes two machines, or containers, of one name
)
requests = sa.Table(  # since 2: requests of users from another terminal
    "requests",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("verb", sa.String, nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("served", sa.Float),  # time of the answer
    sa.Column("refusal", sa.String),  # reason of the refusal; null if it was carried out
)


def migrate(connection: sa.Connection, version: int) -> None:
    """Migrate the tables of an older version. The caller's transaction makes it atomic."""
    if version == VERSION:
        return
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    for step in range(version, VERSION):
        _STEPS[step](operations)
    connection.execute(study.update().values(schema_version=VERSION))


def _from_1(operations: Operations) -> None:
    """Add requests, extended trials, and the owner's machine."""
    operations.add_column("trials", sa.Column("extends", sa.Integer))
    operations.add_column("trials", sa.Column("planned_epochs", sa.Integer))
    operations.add_column("owner", sa.Column("machine", sa.String))
    operations.create_table(
        "requests",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("verb", sa.String, nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("served", sa.Float),
        sa.Column("refusal", sa.String),
    )


_STEPS: dict[int, Callable[[Operations], None]] = {1: _from_1}
