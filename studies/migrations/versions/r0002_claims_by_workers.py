"""Trials that workers claim: heartbeats on the database clock, and the number of attempts of each.

No query looks up trials by architecture, and those two indexes cost a scattered write per trial of a large study.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("ix_nas_trials_arch_id", "nas_trials")
    op.drop_index("ix_nas_trials_study_id_arch_id", "nas_trials")
    op.drop_column("nas_trials", "heartbeat_at")
    op.add_column("nas_trials", sa.Column("heartbeat_at", sa.Double))
    op.add_column("nas_trials", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
