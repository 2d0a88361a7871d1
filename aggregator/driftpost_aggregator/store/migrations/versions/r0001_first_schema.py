"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of the first release."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_table(
        "bundles",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("model_sha256", sa.Text(), nullable=False),
        sa.Column("schema_id", sa.LargeBinary(), nullable=False),
        sa.Column("schema", sa.LargeBinary(), nullable=False),
        sa.Column("baseline", sa.LargeBinary(), nullable=False),
        sa.Column("tau", sa.JSON(), nullable=False),
        sa.Column("n_ref", sa.JSON(), nullable=False),
        sa.Column("smallest_effect", sa.JSON(), nullable=False),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("budget", sa.Text(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("joint", sa.LargeBinary(), nullable=False),
        sa.Column("performance", sa.LargeBinary(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bundle", name="pk_bundles"),
    )
    op.create_index("ix_bundles_schema_id", "bundles", ["schema_id"], unique=False)
    op.create_table(
        "label_rollups",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_key", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("day_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("unknown", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "scope_key", "bundle", "day_ms", name="pk_label_rollups"),
    )
    op.create_table(
        "detector_states",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_key", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("next_bucket_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("raised", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "scope_key", "bundle", name="pk_detector_states"),
    )
    op.create_table(
        "device_attributes",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("device", "key", name="pk_device_attributes"),
    )
    op.create_index(
        "ix_device_attributes_key_value", "device_attributes", ["key", "value", "device"], unique=False
    )
    op.create_table(
        "devices",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=True),
        sa.Column("agent_version", sa.Text(), nullable=True),
        sa.Column("runtime", sa.Text(), nullable=True),
        sa.Column("bundle", sa.Text(), nullable=True),
        sa.Column("schema_id", sa.LargeBinary(), nullable=True),
        sa.Column("clock_good", sa.Boolean(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_window_ms", sa.BigInteger(), nullable=True),
        sa.Column("evidence", sa.Float(), nullable=True),
        sa.Column("windows", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_devices"),
    )
    op.create_index("ix_devices_bundle", "devices", ["bundle"], unique=False)
    op.create_index("ix_devices_last_seen_ms", "devices", ["last_seen_ms"], unique=False)
    op.create_index("ix_devices_online_device", "devices", ["online", "device"], unique=False)
    op.create_table(
        "disabled_targets",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("disabled_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("target", name="pk_disabled_targets"),
    )
    op.create_table(
        "findings",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("streams", sa.JSON(), nullable=False),
        sa.Column("log_e", sa.Float(), nullable=False),
        sa.Column("effect", sa.Float(), nullable=False),
        sa.Column("effect_natural", sa.Float(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("onset_ms", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=True),
        sa.Column("cleared_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("device", "incarnation", "seq", name="pk_findings"),
    )
    op.create_index("ix_findings_at_ms", "findings", ["at_ms"], unique=False)
    op.create_index("ix_findings_device_at_ms", "findings", ["device", "at_ms"], unique=False)
    op.create_index("ix_findings_id", "findings", ["id"], unique=False)
    op.create_index("ix_findings_incident_at_ms", "findings", ["incident", "at_ms"], unique=False)
    op.create_index(
        "ix_findings_standing",
        "findings",
        ["bundle", "device"],
        unique=False,
        sqlite_where=sa.text("state = 'raised' AND cleared_ms IS NULL"),
        postgresql_where=sa.text("state = 'raised' AND cleared_ms IS NULL"),
    )
    op.create_table(
        "incidents",
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("bundles", sa.JSON(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_key", sa.Text(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.Float(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("onset_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolved_ms", sa.BigInteger(), nullable=True),
        sa.Column("muted_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("affected", sa.Integer(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("elsewhere", sa.Integer(), nullable=False),
        sa.Column("streams", sa.JSON(), nullable=False),
        sa.Column("log_e", sa.Float(), nullable=False),
        sa.Column("risk_ratio", sa.Float(), nullable=True),
        sa.Column("risk_ratio_low", sa.Float(), nullable=True),
        sa.Column("reopened", sa.Integer(), nullable=False),
        sa.Column("absorbed_into", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("incident", name="pk_incidents"),
    )
    op.create_index("ix_incidents_model_state", "incidents", ["model", "state"], unique=False)
    op.create_index("ix_incidents_opened_ms", "incidents", ["opened_ms"], unique=False)
    op.create_index("ix_incidents_state", "incidents", ["state", "updated_ms"], unique=False)
    op.create_table(
        "ledgers",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sender", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("recorded_windows", sa.BigInteger(), nullable=False),
        sa.Column("recorded_rows", sa.BigInteger(), nullable=False),
        sa.Column("acked_windows", sa.BigInteger(), nullable=False),
        sa.Column("acked_rows", sa.BigInteger(), nullable=False),
        sa.Column("pending_windows", sa.BigInteger(), nullable=False),
        sa.Column("pending_rows", sa.BigInteger(), nullable=False),
        sa.Column("quarantined_windows", sa.BigInteger(), nullable=False),
        sa.Column("quarantined_rows", sa.BigInteger(), nullable=False),
        sa.Column("merged_windows", sa.BigInteger(), nullable=False),
        sa.Column("merged_rows", sa.BigInteger(), nullable=False),
        sa.Column("lost_rows_at_start", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", "incarnation", name="pk_ledgers"),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
    )
    op.create_index("ix_quarantine_device_received_ms", "quarantine", ["device", "received_ms"], unique=False)
    op.create_index("ix_quarantine_received_ms", "quarantine", ["received_ms"], unique=False)
    op.create_table(
        "rollups",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_key", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("bucket_s", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bucket_start_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.BigInteger(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("cohorts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("window", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "scope", "scope_key", "bundle", "bucket_s", "bucket_start_ms", name="pk_rollups"
        ),
    )
    op.create_index("ix_rollups_bucket_start_ms", "rollups", ["bucket_start_ms", "scope"], unique=False)
    op.create_table(
        "seen",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("beyond", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device", "incarnation", name="pk_seen"),
    )
    op.create_table(
        "windows",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("schema_id", sa.LargeBinary(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("end_ms", sa.BigInteger(), nullable=False),
        sa.Column("clock", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.BigInteger(), nullable=False),
        sa.Column("window", sa.LargeBinary(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("merged", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device", "incarnation", "seq", name="pk_windows"),
    )
    op.create_index("ix_windows_device_start_ms", "windows", ["device", "start_ms"], unique=False)
    op.create_index("ix_windows_received_ms", "windows", ["received_ms"], unique=False)
    op.create_index(
        "ix_windows_waiting",
        "windows",
        ["bundle"],
        unique=False,
        sqlite_where=sa.text("merged = 0"),
        postgresql_where=sa.text("NOT merged"),
    )
    op.create_table(
        "incident_devices",
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("onset_ms", sa.BigInteger(), nullable=False),
        sa.Column("raised_ms", sa.BigInteger(), nullable=False),
        sa.Column("cleared_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["incident"], ["incidents.incident"], name="fk_incident_devices_incident"),
        sa.PrimaryKeyConstraint("incident", "device", name="pk_incident_devices"),
    )
    op.create_index("ix_incident_devices_device", "incident_devices", ["device"], unique=False)
    op.create_table(
        "incident_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["incident"], ["incidents.incident"], name="fk_incident_events_incident"),
        sa.PrimaryKeyConstraint("id", name="pk_incident_events"),
    )
    op.create_index("ix_incident_events_incident_id", "incident_events", ["incident", "id"], unique=False)
    op.create_table(
        "retrain_requests",
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("delivered_ms", sa.BigInteger(), nullable=True),
        sa.Column("new_bundle", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["incident"], ["incidents.incident"], name="fk_retrain_requests_incident"),
        sa.PrimaryKeyConstraint("request", name="pk_retrain_requests"),
    )
    op.create_index("ix_retrain_requests_created_ms", "retrain_requests", ["created_ms"], unique=False)
    op.create_index("uq_retrain_requests_episode", "retrain_requests", ["incident", "episode"], unique=True)
    op.create_table(
        "deliveries",
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_attempt_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("delivered_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["request"], ["retrain_requests.request"], name="fk_deliveries_request"),
        sa.PrimaryKeyConstraint("request", "target", name="pk_deliveries"),
    )
    op.create_index(
        "ix_deliveries_state_next_attempt_ms", "deliveries", ["state", "next_attempt_ms"], unique=False
    )
