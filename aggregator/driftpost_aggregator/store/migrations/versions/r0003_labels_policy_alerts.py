"""Delayed labels on their way to devices, what policies are replayed over, alerts, ranked requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create their tables, and the columns by which requests are ranked and escalated."""
    op.create_table(
        "label_pushes",
        sa.Column("push", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.Column("already", sa.Integer(), nullable=False),
        sa.Column("refused", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("push", name="pk_label_pushes"),
    )
    op.create_index("ix_label_pushes_at_ms", "label_pushes", ["at_ms"], unique=False)
    op.create_table(
        "label_batches",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("push", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_ms", sa.BigInteger(), nullable=False),
        sa.Column("settled_ms", sa.BigInteger(), nullable=True),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.Column("twice", sa.Integer(), nullable=False),
        sa.Column("unknown", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("batch", name="pk_label_batches"),
    )
    op.create_index("ix_label_batches_created_ms", "label_batches", ["created_ms"], unique=False)
    op.create_index(
        "ix_label_batches_device_created_ms", "label_batches", ["device", "created_ms"], unique=False
    )
    op.create_index("ix_label_batches_push", "label_batches", ["push"], unique=False)
    op.create_index(
        "ix_label_batches_state_next_attempt_ms", "label_batches", ["state", "next_attempt_ms"], unique=False
    )
    op.create_table(
        "policy_snapshots",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.Float(), nullable=False),
        sa.Column("affected", sa.Integer(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_policy_snapshots"),
    )
    op.create_index("ix_policy_snapshots_at_ms", "policy_snapshots", ["at_ms"], unique=False)
    op.create_index("ix_policy_snapshots_incident_id", "policy_snapshots", ["incident", "id"], unique=False)
    op.create_table(
        "alert_channels",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("failing_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_alert_channels"),
    )
    op.create_table(
        "alerts",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("event", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "event", name="pk_alerts"),
    )
    op.create_index("ix_alerts_message", "alerts", ["message"], unique=False)
    op.create_table(
        "alert_messages",
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("message", name="pk_alert_messages"),
    )
    op.create_index("ix_alert_messages_created_ms", "alert_messages", ["created_ms"], unique=False)
    op.create_index(
        "ix_alert_messages_state_next_attempt_ms",
        "alert_messages",
        ["state", "next_attempt_ms"],
        unique=False,
    )
    op.add_column("retrain_requests", sa.Column("devices", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("retrain_requests", sa.Column("gain", sa.Float(), nullable=False, server_default="0"))
    op.add_column(
        "retrain_requests", sa.Column("gain_source", sa.Text(), nullable=False, server_default="assumed")
    )
    op.add_column("retrain_requests", sa.Column("cost", sa.Float(), nullable=False, server_default="1"))
    op.add_column("retrain_requests", sa.Column("priority", sa.Float(), nullable=False, server_default="0"))
    op.add_column("retrain_requests", sa.Column("reuse", sa.JSON(), nullable=True))
    op.add_column("retrain_requests", sa.Column("escalated_ms", sa.BigInteger(), nullable=True))
    op.create_index("ix_retrain_requests_priority", "retrain_requests", ["priority", "request"], unique=False)
    op.create_index(
        "ix_retrain_requests_state_updated_ms", "retrain_requests", ["state", "updated_ms"], unique=False
    )
    op.create_index("ix_incident_events_at_ms", "incident_events", ["at_ms"], unique=False)
