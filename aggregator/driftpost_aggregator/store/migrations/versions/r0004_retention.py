"""Coarser rollups, how long what is kept, and PostgreSQL's large tables in parts by time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add two tables; on PostgreSQL partition windows and rollups, their rows staying where they are."""
    op.create_table(
        "horizons",
        sa.Column("bucket_s", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("begun_ms", sa.BigInteger(), nullable=False),
        sa.Column("queued_ms", sa.BigInteger(), nullable=False),
        sa.Column("kept_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket_s", name="pk_horizons"),
    )
    op.create_table(
        "coarse_work",
        sa.Column("bucket_s", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bucket_start_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_key", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "bucket_s", "bucket_start_ms", "scope", "scope_key", "bundle", name="pk_coarse_work"
        ),
    )
    if op.get_bind().dialect.name == "postgresql":
        _partition("windows", "received_ms", "device, incarnation, seq, received_ms")
        _partition(
            "rollups", "bucket_s, bucket_start_ms", "scope, scope_key, bundle, bucket_s, bucket_start_ms"
        )
        op.execute("CREATE INDEX ix_windows_device_start_ms ON windows (device, start_ms)")
        op.execute("CREATE INDEX ix_windows_received_ms ON windows (received_ms)")
        op.execute("CREATE INDEX ix_windows_waiting ON windows (bundle) WHERE NOT merged")
        op.execute("CREATE INDEX ix_rollups_bucket_start_ms ON rollups (bucket_start_ms, scope)")
        # Room beside each row, so that its next version lies on the same page and needs no new index entries.
        op.execute("ALTER TABLE seen SET (fillfactor = 70)")


def _partition(table: str, by: str, key: str) -> None:
    """Let the table become the default part of a partitioned one of its name."""
    inspector = sa.inspect(op.get_bind())
    for index in inspector.get_indexes(table):
        op.execute(f"DROP INDEX {index['name']}")
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT pk_{table}")
    # Sketches are compressed; trying again costs time and gains nothing.
    op.execute(f'ALTER TABLE {table} ALTER COLUMN "window" SET STORAGE EXTERNAL')
    op.execute(f"ALTER TABLE {table} RENAME TO {table}_default")
    op.execute(
        f"CREATE TABLE {table} (LIKE {table}_default INCLUDING DEFAULTS INCLUDING STORAGE) "
        f"PARTITION BY RANGE ({by})"
    )
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({key})")
    op.execute(f"ALTER TABLE {table} ATTACH PARTITION {table}_default DEFAULT")
