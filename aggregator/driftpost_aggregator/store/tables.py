"""Every table of the aggregator, once, for SQLite and PostgreSQL alike.

Conventions that hold throughout:

* A column ending in ``_ms`` is Unix time in milliseconds, UTC, as the aggregator understands it (already
  corrected for devices whose clock is not good).
* ``device`` is the device's name as it stands in its topic; every large table carries it, so that a
  distributed PostgreSQL can spread them by it.
* ``(device, incarnation, seq)`` names a message, so it is the key of what came out of one.
* JSON columns hold small lists and objects for display; nothing is searched inside them.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a column declared exactly INTEGER PRIMARY KEY.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")

devices = Table(
    "devices",
    metadata,
    Column("device", Text, primary_key=True),
    Column("online", Boolean, nullable=False),
    Column("incarnation", BigInteger),  # newest one seen
    Column("agent_version", Text),
    Column("runtime", Text),
    Column("bundle", Text),  # id of the bundle it runs now
    Column("schema_id", LargeBinary),
    Column("clock_good", Boolean),  # null until its first birth
    Column("started_ms", BigInteger),
    Column("first_seen_ms", BigInteger, nullable=False),
    Column("last_seen_ms", BigInteger, nullable=False),
    Column("last_window_ms", BigInteger),  # end of its newest window
    Column("evidence", Float),  # largest ln evidence of its newest window, over tracked streams
    Column(
        "windows", BigInteger, nullable=False
    ),  # stored from it, ever (one may stand for several merged ones)
    Column("parts", BigInteger, nullable=False),  # base windows in them
    Column("rows", BigInteger, nullable=False),  # inferences in them
    Column("quarantined", BigInteger, nullable=False),
)
Index("ix_devices_last_seen_ms", devices.c.last_seen_ms)
Index("ix_devices_bundle", devices.c.bundle)
Index("ix_devices_online_device", devices.c.online, devices.c.device)

device_attributes = Table(
    "device_attributes",
    metadata,
    Column("device", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
# The third column lets a page of a cohort's devices be read in order from the index alone.
Index(
    "ix_device_attributes_key_value",
    device_attributes.c.key,
    device_attributes.c.value,
    device_attributes.c.device,
)

bundles = Table(
    "bundles",
    metadata,
    Column("bundle", Text, primary_key=True),  # hex SHA-256 over its manifest
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("model_sha256", Text, nullable=False),
    Column("schema_id", LargeBinary, nullable=False),
    Column("schema", LargeBinary, nullable=False),  # msgpack of Schema.to_dict()
    Column("baseline", LargeBinary, nullable=False),  # Window.to_bytes()
    Column("tau", JSON, nullable=False),  # stream name -> integrated autocorrelation, rows
    Column("n_ref", JSON, nullable=False),  # stream name -> effective reference size, rows
    Column("smallest_effect", JSON, nullable=False),  # stream name -> reference sd (or share)
    Column("window_s", Float, nullable=False),
    Column("budget", Text, nullable=False),  # as the owner wrote it, e.g. "1 per device-year"
    Column("classes", JSON, nullable=False),
    Column("joint", LargeBinary, nullable=False),  # JointPlan.to_bytes(), empty where it is not watched
    Column("performance", LargeBinary, nullable=False),  # PerformanceRecord.to_bytes(), empty without labels
    Column("provenance", JSON, nullable=False),
    Column("source", Text, nullable=False),  # "file", or the device that described it
    Column("added_ms", BigInteger, nullable=False),
)
Index("ix_bundles_schema_id", bundles.c.schema_id)

# What has been taken from each (device, incarnation): everything up to `through`, and the ranges in `beyond`.
# It does not rest on the rows themselves, so a message that returns after its row was deleted still counts
# once.
seen = Table(
    "seen",
    metadata,
    Column("device", Text, primary_key=True),
    Column("incarnation", BigInteger, primary_key=True, autoincrement=False),
    Column("through", BigInteger, nullable=False),
    Column("beyond", LargeBinary, nullable=False),  # msgpack [[first, last], ...]
)

windows = Table(
    "windows",
    metadata,
    Column("device", Text, primary_key=True),
    Column("incarnation", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("bundle", Text, nullable=False),
    Column("schema_id", LargeBinary, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("clock", Text, nullable=False),  # "device", "monotonic" (from its monotonic clock) or "received"
    Column("received_ms", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("parts", BigInteger, nullable=False),
    Column("window", LargeBinary, nullable=False),  # Window.to_bytes()
    Column("evidence", LargeBinary, nullable=False),  # float16 ln evidence per tracked stream
    Column("merged", Boolean, nullable=False),  # whether it is in the rollups; not before its bundle is known
)
Index("ix_windows_device_start_ms", windows.c.device, windows.c.start_ms)
Index("ix_windows_received_ms", windows.c.received_ms)
# Windows that wait for their bundle's description: almost always none.
_WAITING = ~windows.c.merged
Index("ix_windows_waiting", windows.c.bundle, sqlite_where=_WAITING, postgresql_where=_WAITING)

# Merged windows. scope_key: the device's name; "key=value" of a cohort; "" of the fleet.
rollups = Table(
    "rollups",
    metadata,
    Column("scope", Text, primary_key=True),  # device | cohort | fleet
    Column("scope_key", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("bucket_s", Integer, primary_key=True, autoincrement=False),
    Column("bucket_start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("rows", BigInteger, nullable=False),
    Column("parts", BigInteger, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column(
        "cohorts", JSON(none_as_null=True)
    ),  # device scope only: the cohorts in which this bucket was counted
    Column("window", LargeBinary, nullable=False),  # Window.to_bytes()
)
# Triage asks for a bucket of all devices, retention for the oldest of one length; the key above serves every
# page (one scope, one bundle, by time).
Index("ix_rollups_bucket_s_bucket_start_ms", rollups.c.bucket_s, rollups.c.bucket_start_ms, rollups.c.scope)

# How far rollups of each length are made and kept; see retention.py.
horizons = Table(
    "horizons",
    metadata,
    Column("bucket_s", Integer, primary_key=True, autoincrement=False),
    Column("begun_ms", BigInteger, nullable=False),  # buckets before it are made, or wait in coarse_work
    Column("queued_ms", BigInteger, nullable=False),  # and before this all of them have been put there
    Column("kept_ms", BigInteger, nullable=False),  # rollups before it are merged into longer buckets only
)

# Buckets that have to be merged (again) from shorter ones; keys as in rollups.
coarse_work = Table(
    "coarse_work",
    metadata,
    Column("bucket_s", Integer, primary_key=True, autoincrement=False),
    Column("bucket_start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("scope", Text, primary_key=True),
    Column("scope_key", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
)

# Merged sketches of delayed labels by day; keys as in rollups.
label_rollups = Table(
    "label_rollups",
    metadata,
    Column("scope", Text, primary_key=True),  # device | cohort | fleet
    Column("scope_key", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("day_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("rows", BigInteger, nullable=False),
    Column("unknown", BigInteger, nullable=False),  # labels that came when their answer was forgotten
    Column("updated_ms", BigInteger, nullable=False),
    Column("sketch", LargeBinary, nullable=False),  # LabelSketch.to_bytes()
)

# State of the detectors that watch cohorts and the fleet; one row each, constant size.
detector_states = Table(
    "detector_states",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("scope_key", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("next_bucket_ms", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("raised", JSON, nullable=False),  # stream name -> the alarm that stands, as in findings
)

# How many devices of a bundle were compared with each other, and up to when.
populations = Table(
    "populations",
    metadata,
    Column("bundle", Text, primary_key=True),
    Column("bucket_ms", BigInteger, nullable=False),  # beginning of the newest bucket
    Column("devices", Integer, nullable=False),  # that sent windows of it
)

# Devices that stand apart from the others by what they send, whatever they report themselves.
apart = Table(
    "apart",
    metadata,
    Column("bundle", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("log_e", Float, nullable=False),  # against being one of the population
    Column("against", Float, nullable=False),  # against the bundle's reference
    Column("onset_ms", BigInteger, nullable=False),
    Column("raised_ms", BigInteger, nullable=False),  # our clock
    Column("private", Boolean, nullable=False),  # its windows carry noise, its findings may stay at home
    Column("streams", JSON, nullable=False),  # [[name, share of the evidence], ...]
)

findings = Table(
    "findings",
    metadata,
    Column("device", Text, primary_key=True),
    Column("incarnation", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),  # the device's own id for it
    Column("bundle", Text, nullable=False),
    Column("state", Text, nullable=False),  # raised | cleared
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),  # drift | runtime | quality | device
    Column("streams", JSON, nullable=False),  # [[name, share of the evidence], ...]
    Column("log_e", Float, nullable=False),
    Column("effect", Float, nullable=False),  # reference sd, or difference of shares
    Column("effect_natural", Float, nullable=False),
    Column("unit", Text, nullable=False),
    Column("direction", Text, nullable=False),  # up | down | none
    Column("onset_ms", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("incident", Text),  # the incident it was attributed to; null until triage has decided
    Column("cleared_ms", BigInteger),  # of a raised one: when the device took it back
)
Index("ix_findings_device_at_ms", findings.c.device, findings.c.at_ms)
Index("ix_findings_incident_at_ms", findings.c.incident, findings.c.at_ms)
Index("ix_findings_id", findings.c.id)
# What stands now: the triage loop reads it every round, whatever the length of the history.
_STANDING = (findings.c.state == "raised") & findings.c.cleared_ms.is_(None)
Index(
    "ix_findings_standing",
    findings.c.bundle,
    findings.c.device,
    sqlite_where=_STANDING,
    postgresql_where=_STANDING,
)
Index("ix_findings_at_ms", findings.c.at_ms)

incidents = Table(
    "incidents",
    metadata,
    Column("incident", Text, primary_key=True),
    # The model's name: builds and versions of one model drift together. "" concerns devices alone.
    Column("model", Text, nullable=False),
    Column("bundle", Text, nullable=False),  # the one whose schema and baseline its streams speak of
    Column("bundles", JSON, nullable=False),  # ids of all that are affected, most devices first
    Column("scope", Text, nullable=False),  # device | group | cohort | fleet
    # As in rollups; several attributes joined by " & "; of a group the device that leads it.
    Column("scope_key", Text, nullable=False),
    Column("attributes", JSON, nullable=False),  # [[key, value], ...] that explain it
    Column("kind", Text, nullable=False),  # sensor_fault | covariate_shift | data_quality | model_fault | ...
    Column("detail", Text, nullable=False),  # the dominant finding kind: stuck, shift, ...
    Column("state", Text, nullable=False),  # open | acknowledged | muted | resolved | absorbed
    Column("severity", Float, nullable=False),  # largest standing |effect|, reference sd
    Column("title", Text, nullable=False),
    Column("cause", Text, nullable=False),  # one readable sentence
    Column("onset_ms", BigInteger, nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("resolved_ms", BigInteger),
    Column("muted_until_ms", BigInteger),
    Column("affected", Integer, nullable=False),  # devices with standing findings in it
    Column("members", Integer, nullable=False),  # devices in its scope
    Column("elsewhere", Integer, nullable=False),  # devices outside its scope with the same standing finding
    Column(
        "streams", JSON, nullable=False
    ),  # ordered [{stream, share, effect, effect_natural, unit, direction}]
    Column("log_e", Float, nullable=False),
    Column("risk_ratio", Float),
    Column("risk_ratio_low", Float),
    Column("reopened", Integer, nullable=False),  # how many times
    Column("absorbed_into", Text),
    # What else speaks for the cause: counterfactual, coverage, rivals; see `cause_card.py`.
    Column("card", JSON, nullable=False, server_default="{}"),
)
Index("ix_incidents_state", incidents.c.state, incidents.c.updated_ms)
Index("ix_incidents_opened_ms", incidents.c.opened_ms)
Index("ix_incidents_model_state", incidents.c.model, incidents.c.state)

incident_devices = Table(
    "incident_devices",
    metadata,
    Column("incident", Text, ForeignKey("incidents.incident"), primary_key=True),
    Column("device", Text, primary_key=True),
    Column("onset_ms", BigInteger, nullable=False),
    Column("raised_ms", BigInteger, nullable=False),
    Column("cleared_ms", BigInteger),
)
Index("ix_incident_devices_device", incident_devices.c.device)

incident_events = Table(
    "incident_events",
    metadata,
    Column("id", _RowNumber, primary_key=True),
    Column("incident", Text, ForeignKey("incidents.incident"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    # opened | widened | absorbed | acknowledged | muted | unmuted | resolved | reopened | note | retrain |
    # escalated
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),  # "aggregator", or the person's name
    Column("text", Text, nullable=False),
)
Index("ix_incident_events_incident_id", incident_events.c.incident, incident_events.c.id)

retrain_requests = Table(
    "retrain_requests",
    metadata,
    Column("request", Text, primary_key=True),  # also the CloudEvent's id and the webhook-id
    Column("incident", Text, ForeignKey("incidents.incident"), nullable=False),
    Column(
        "episode", Integer, nullable=False
    ),  # incidents.reopened when it was asked: one request per episode
    Column("bundle", Text, nullable=False),
    # created | delivered | undeliverable | accepted | running | done | failed
    Column("state", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("delivered_ms", BigInteger),
    Column("new_bundle", Text),  # what the pipeline reported with "done"
    Column("detail", Text, nullable=False),  # the pipeline's last word
    Column("body", LargeBinary, nullable=False),  # the CloudEvent, byte for byte as it is sent
    Column("devices", Integer, nullable=False),  # affected when it was asked
    Column("gain", Float, nullable=False),  # accuracy to be won back, a share
    Column("gain_source", Text, nullable=False),  # labels | estimate | assumed
    Column("cost", Float, nullable=False),  # of one retraining, in the owner's unit
    Column("priority", Float, nullable=False),  # gain * devices / cost
    Column("reuse", JSON(none_as_null=True)),  # the known bundle whose baseline fits, as `reuse.Match` has it
    Column("escalated_ms", BigInteger),  # when people were told that nothing came of it
)
# One request an episode, whatever else goes wrong.
Index("uq_retrain_requests_episode", retrain_requests.c.incident, retrain_requests.c.episode, unique=True)
Index("ix_retrain_requests_created_ms", retrain_requests.c.created_ms)
Index("ix_retrain_requests_priority", retrain_requests.c.priority, retrain_requests.c.request)
Index("ix_retrain_requests_state_updated_ms", retrain_requests.c.state, retrain_requests.c.updated_ms)

deliveries = Table(
    "deliveries",
    metadata,
    Column("request", Text, ForeignKey("retrain_requests.request"), primary_key=True),
    Column("target", Text, primary_key=True),  # its name in the settings
    Column("state", Text, nullable=False),  # pending | delivered | failed
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("last_attempt_ms", BigInteger),
    Column("last_status", Integer),
    Column("last_error", Text, nullable=False),
    Column("delivered_ms", BigInteger),
)
Index("ix_deliveries_state_next_attempt_ms", deliveries.c.state, deliveries.c.next_attempt_ms)

# A target that answered 410 Gone stays off until its owner changes the settings.
disabled_targets = Table(
    "disabled_targets",
    metadata,
    Column("target", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("disabled_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _RowNumber, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("device", Text),  # from the topic; null if even that could not be read
    Column("topic", Text, nullable=False),
    Column("incarnation", BigInteger),
    Column("seq", BigInteger),
    Column("kind", Text, nullable=False),  # window | finding | describe | ledger | state | message
    Column("reason", Text, nullable=False),
    Column("size", Integer, nullable=False),  # bytes received; `body` keeps the first of them
    Column("body", LargeBinary, nullable=False),
)
Index("ix_quarantine_device_received_ms", quarantine.c.device, quarantine.c.received_ms)
Index("ix_quarantine_received_ms", quarantine.c.received_ms)

# The newest ledger about each (device, incarnation); the columns repeat its message.
ledgers = Table(
    "ledgers",
    metadata,
    Column("device", Text, primary_key=True),
    Column("incarnation", BigInteger, primary_key=True, autoincrement=False),
    Column(
        "sender", BigInteger, nullable=False
    ),  # incarnation that sent it; a later one reports earlier ones too
    Column("seq", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("recorded_windows", BigInteger, nullable=False),
    Column("recorded_rows", BigInteger, nullable=False),
    Column("acked_windows", BigInteger, nullable=False),
    Column("acked_rows", BigInteger, nullable=False),
    Column("pending_windows", BigInteger, nullable=False),
    Column("pending_rows", BigInteger, nullable=False),
    Column("quarantined_windows", BigInteger, nullable=False),
    Column("quarantined_rows", BigInteger, nullable=False),
    Column("merged_windows", BigInteger, nullable=False),
    Column("merged_rows", BigInteger, nullable=False),
    Column("lost_rows_at_start", BigInteger, nullable=False),
)

# How each device's board fares by its newest message: sensor -> [latest, lowest, mean, highest].
boards = Table(
    "boards",
    metadata,
    Column("device", Text, primary_key=True),
    Column("incarnation", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("span_ms", BigInteger, nullable=False),
    Column("readings", JSON, nullable=False),
)

# Hash-chained: `hash` covers the row's other columns and `previous`, so a change anywhere breaks every
# later row.
audit = Table(
    "audit",
    metadata,
    Column("id", _RowNumber, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

# One call of `driftpost labels push`, or of the API behind it.
label_pushes = Table(
    "label_pushes",
    metadata,
    Column("push", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("labels", Integer, nullable=False),  # inferences labelled in it, refused ones included
    Column("queued", Integer, nullable=False),
    Column("already", Integer, nullable=False),  # came before, in the very same parts
    Column("refused", JSON, nullable=False),  # reason -> how many
)
Index("ix_label_pushes_at_ms", label_pushes.c.at_ms)

# Labels on their way to the device that gave the answers, as one request each.
label_batches = Table(
    "label_batches",
    metadata,
    Column("batch", Text, primary_key=True),  # also the request's id: made of device and labels
    Column("device", Text, nullable=False),
    Column("push", Text, nullable=False),
    Column("state", Text, nullable=False),  # waiting | done | refused | expired
    Column("labels", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("settled_ms", BigInteger),
    Column("counted", Integer, nullable=False),  # joined with an answer
    Column("twice", Integer, nullable=False),  # of an answer that had its label
    Column("unknown", Integer, nullable=False),  # the device does not remember the answer
    Column("refused", Integer, nullable=False),  # no class of its model, or not one for each row
    Column("detail", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # GivenLabels.to_bytes(); empty once settled
)
Index("ix_label_batches_state_next_attempt_ms", label_batches.c.state, label_batches.c.next_attempt_ms)
Index("ix_label_batches_created_ms", label_batches.c.created_ms)
Index("ix_label_batches_device_created_ms", label_batches.c.device, label_batches.c.created_ms)
Index("ix_label_batches_push", label_batches.c.push)

# An incident whenever what the retrain policy looks at has changed: what a policy is replayed over.
policy_snapshots = Table(
    "policy_snapshots",
    metadata,
    Column("id", _RowNumber, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("incident", Text, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("scope_key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("severity", Float, nullable=False),
    Column("affected", Integer, nullable=False),
    Column("members", Integer, nullable=False),
    Column("loss", Float),  # estimated loss of accuracy, a share; null where nothing tells
)
Index("ix_policy_snapshots_at_ms", policy_snapshots.c.at_ms)
Index("ix_policy_snapshots_incident_id", policy_snapshots.c.incident, policy_snapshots.c.id)

# Where alerts go: one row for each channel of the settings, from the moment it was first seen there.
alert_channels = Table(
    "alert_channels",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("since_ms", BigInteger, nullable=False),  # changes before it are nobody's news
    Column("last_sent_ms", BigInteger),
    Column("failing_since_ms", BigInteger),
    Column("last_error", Text, nullable=False),
)

# Which change of an incident went to which channel in which message; "" where it was not worth one.
alerts = Table(
    "alerts",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("event", BigInteger, primary_key=True, autoincrement=False),  # incident_events.id
    Column("message", Text, nullable=False),
)
Index("ix_alerts_message", alerts.c.message)

alert_messages = Table(
    "alert_messages",
    metadata,
    Column("message", Text, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("state", Text, nullable=False),  # pending | sent | failed
    Column("created_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("sent_ms", BigInteger),
    Column("last_error", Text, nullable=False),
    Column("changes", JSON, nullable=False),  # as `alerts.change.Change.to_dict` has them
)
Index("ix_alert_messages_state_next_attempt_ms", alert_messages.c.state, alert_messages.c.next_attempt_ms)
Index("ix_alert_messages_created_ms", alert_messages.c.created_ms)
Index("ix_incident_events_at_ms", incident_events.c.at_ms)
