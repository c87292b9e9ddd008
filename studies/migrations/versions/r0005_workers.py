"""The running workers, and when each was last seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "nas_workers",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("study", sa.String, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
