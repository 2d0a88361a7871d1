"""Rollups of one length by time, without looking at those of other lengths."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Replace an index."""
    op.execute("DROP INDEX ix_rollups_bucket_start_ms")
    op.execute(
        "CREATE INDEX ix_rollups_bucket_s_bucket_start_ms ON rollups (bucket_s, bucket_start_ms, scope)"
    )
