"""Devices that stand apart, and what else speaks for an incident's cause."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two tables and a column."""
    op.create_table(
        "populations",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("bucket_ms", sa.BigInteger(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("bundle", name="pk_populations"),
    )
    op.create_table(
        "apart",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("log_e", sa.Float(), nullable=False),
        sa.Column("against", sa.Float(), nullable=False),
        sa.Column("onset_ms", sa.BigInteger(), nullable=False),
        sa.Column("raised_ms", sa.BigInteger(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("streams", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("bundle", "device", name="pk_apart"),
    )
    op.add_column("incidents", sa.Column("card", sa.JSON(), nullable=False, server_default="{}"))
