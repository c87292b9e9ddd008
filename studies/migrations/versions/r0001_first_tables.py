"""The first tables: studies, trials, measurements, artifacts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_studies()
    _create_trials()
    _create_measurements()
    _create_artifacts()


def _create_studies() -> None:
    op.create_table(
        "nas_studies",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("space", sa.JSON, nullable=False),
        sa.Column("objectives", sa.JSON, nullable=False),
        sa.Column("searcher", sa.String, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("lag", sa.Integer, nullable=False),
        sa.Column("max_trials", sa.Integer, nullable=False),
        sa.Column("max_seconds", sa.Double),
        sa.Column("quality", sa.String, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("supernet", sa.String, nullable=False),
        sa.Column("profile", sa.String, nullable=False),
        sa.Column("code_version", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("searcher_state", sa.JSON),
        sa.Column("lease_owner", sa.String),
        sa.Column("lease_expires_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_nas_studies"),
        sa.UniqueConstraint("name", name="uq_nas_studies_name"),
    )


def _create_trials() -> None:
    op.create_table(
        "nas_trials",
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("arch", sa.JSON, nullable=False),
        sa.Column("arch_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("violations", sa.JSON, nullable=False),
        sa.Column("fidelity", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("parents", sa.JSON, nullable=False),
        sa.Column("worker", sa.String, nullable=False),
        sa.Column("heartbeat_at", sa.String, nullable=False),
        sa.Column("error", sa.String, nullable=False),
        sa.Column("started_at", sa.String, nullable=False),
        sa.Column("finished_at", sa.String, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.PrimaryKeyConstraint("study_id", "number", name="pk_nas_trials"),
        sa.ForeignKeyConstraint(["study_id"], ["nas_studies.id"], name="fk_nas_trials_study_id"),
    )
    op.create_index("ix_nas_trials_arch_id", "nas_trials", ["arch_id"])
    op.create_index("ix_nas_trials_study_id_arch_id", "nas_trials", ["study_id", "arch_id"])
    op.create_index("ix_nas_trials_study_id_state", "nas_trials", ["study_id", "state"])


def _create_measurements() -> None:
    op.create_table(
        "nas_measurements",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("quantity", sa.String, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("workload", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("implementation", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("software", sa.String, nullable=False),
        sa.Column("measured_at", sa.String, nullable=False),
        sa.Column("p10", sa.Double),
        sa.Column("p90", sa.Double),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("reference", sa.Double),
        sa.Column("seed", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_nas_measurements"),
    )
    op.create_index(
        "ix_nas_measurements_subject_quantity_workload_device",
        "nas_measurements",
        ["subject", "quantity", "workload", "device"],
    )


def _create_artifacts() -> None:
    op.create_table(
        "nas_artifacts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nas_artifacts"),
        sa.UniqueConstraint("kind", "key", name="uq_nas_artifacts_kind_key"),
    )
