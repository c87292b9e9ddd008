"""What the service stores: queue and progress of a study, and the tokens of clients."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    text = ("control", "problem")
    for name in text:
        op.add_column("nas_studies", sa.Column(name, sa.String, nullable=False, server_default=""))
    op.add_column("nas_studies", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("nas_studies", sa.Column("progress", sa.JSON, nullable=False, server_default="{}"))
    op.create_table(
        "nas_tokens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False, unique=True),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("expires_at", sa.Double),
    )
