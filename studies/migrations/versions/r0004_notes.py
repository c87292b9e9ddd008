"""Notes and tags that people add to a study."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("nas_studies", sa.Column("notes", sa.String, nullable=False, server_default=""))
    op.add_column("nas_studies", sa.Column("tags", sa.JSON, nullable=False, server_default="[]"))
