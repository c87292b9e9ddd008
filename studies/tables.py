"""The tables of the database: studies, their trials, measurements, artifacts and tokens.

    nas_studies       one row per study, with the searcher's state and the lease of whoever drives it
    nas_trials        one row per trial, keyed by study and number
    nas_measurements  one row per measured number; `subject` is an `arch_id` or an operator, so studies share them
    nas_artifacts     files and folders kept outside the database, keyed by kind and content id
    nas_workers       one row per running `nas worker` (`studies.workers`)
    nas_tokens        the clients of the service, with hashes of their tokens (`studies.tokens`)

Values and violations are strict JSON objects in which null stands for a number that is not finite. `searcher_state`
is the JSON document of the searcher's `state()` after the last trial it was told, with its own `version`; with null
the searcher is rebuilt by telling it all trials again. Times are ISO 8601 in UTC, except `lease_expires_at`,
`heartbeat_at`, `seen_at` and a token's `expires_at`: seconds since 1970 on the database's clock, which all clients
share. `control` is what a study is to do (`studies.control`), `attempts` how often workers claimed a trial
(`studies.queue`).

A change here needs a new revision in `studies/migrations/versions` and its name at the end of `REVISIONS`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every revision of the schema, oldest first; the last one is what this file describes."""

VERSION_TABLE = "nas_alembic_version"

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

studies = Table(
    "nas_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("space", JSON, nullable=False),
    Column("objectives", JSON, nullable=False),
    Column("searcher", String, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("lag", Integer, nullable=False),
    Column("max_trials", Integer, nullable=False),
    Column("max_seconds", Double),
    Column("quality", String, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("supernet", String, nullable=False),
    Column("profile", String, nullable=False),
    Column("code_version", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("searcher_state", JSON(none_as_null=True)),
    Column("lease_owner", String),
    Column("lease_expires_at", Double),
    Column("control", String, nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("problem", String, nullable=False, server_default=""),
    Column("progress", JSON, nullable=False, server_default="{}"),
    Column("notes", String, nullable=False, server_default=""),
    Column("tags", JSON, nullable=False, server_default="[]"),
)

trials = Table(
    "nas_trials",
    metadata,
    Column("study_id", Integer, ForeignKey("nas_studies.id"), nullable=False),
    Column("number", Integer, nullable=False, autoincrement=False),
    Column("arch", JSON, nullable=False),
    Column("arch_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("values", JSON, nullable=False),
    Column("violations", JSON, nullable=False),
    Column("fidelity", String, nullable=False),
    Column("origin", String, nullable=False),
    Column("parents", JSON, nullable=False),
    Column("worker", String, nullable=False),
    Column("heartbeat_at", Double),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", String, nullable=False),
    Column("started_at", String, nullable=False),
    Column("finished_at", String, nullable=False),
    Column("seconds", Double),
    PrimaryKeyConstraint("study_id", "number"),
    Index(None, "study_id", "state"),
)

measurements = Table(
    "nas_measurements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("subject", String, nullable=False),
    Column("quantity", String, nullable=False),
    Column("value", Double),
    Column("unit", String, nullable=False),
    Column("workload", String, nullable=False),
    Column("device", String, nullable=False),
    Column("implementation", String, nullable=False),
    Column("method", String, nullable=False),
    Column("software", String, nullable=False),
    Column("measured_at", String, nullable=False),
    Column("p10", Double),
    Column("p90", Double),
    Column("samples", Integer, nullable=False),
    Column("reference", Double),
    Column("seed", BigInteger),
    Index(None, "subject", "quantity", "workload", "device"),
)

artifacts = Table(
    "nas_artifacts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("path", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", String, nullable=False),
    UniqueConstraint("kind", "key"),
)

tokens = Table(
    "nas_tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("scope", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("created_at", String, nullable=False),
    Column("expires_at", Double),
)

workers = Table(
    "nas_workers",
    metadata,
    Column("name", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("study", String, nullable=False),
    Column("seen_at", Double, nullable=False),
)
