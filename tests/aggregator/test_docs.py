from __future__ import annotations

import json
import re
from pathlib import Path

from driftpost_aggregator.alerts import channels
from driftpost_aggregator.alerts.change import Change
from driftpost_aggregator.causes import Kind
from driftpost_aggregator.delivery import targets
from driftpost_aggregator.delivery.schedule import SCHEDULE_S
from driftpost_aggregator.labels.forwarding import KEEP_MS
from driftpost_aggregator.labels.reading import MAX_LABELS
from driftpost_aggregator.retrain import REPORTS
from driftpost_aggregator.retrain_event import MAX_DEVICES, MAX_STREAMS
from driftpost_aggregator.reuse import Fit
from driftpost_aggregator.settings import KINDS, TABLE
from driftpost_aggregator.web.labels_api import MAX_LABELS_BODY

DOCS = Path(__file__).resolve().parents[2] / "docs"


def reference_section() -> str:
    """The reference page as it stands in docs/aggregator.md, one heading level deeper."""
    body = TABLE.reference_page().split("\n", 1)[1].strip()
    return re.sub(r"^##", "###", body, flags=re.MULTILINE)


def test_the_settings_reference_is_the_table_s_own() -> None:
    page = (DOCS / "aggregator.md").read_text(encoding="utf-8")
    assert reference_section() in page, "put `driftpost aggregator settings` into docs/aggregator.md again"


def test_every_kind_of_incident_is_explained_and_can_be_chosen_in_the_settings() -> None:
    page = (DOCS / "aggregator.md").read_text(encoding="utf-8")
    assert set(KINDS) == {kind.value for kind in Kind}
    for kind in KINDS:
        assert f"| `{kind}` |" in page


def test_the_page_on_retrain_requests_says_what_the_program_does() -> None:
    page = (DOCS / "retrain-requests.md").read_text(encoding="utf-8")
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    event = json.loads(block[1])
    assert set(event["data"]["streams"][0]) == {
        "stream",
        "share",
        "effect",
        "effect_natural",
        "unit",
        "spread",
        "direction",
    }
    assert f"first {MAX_DEVICES} affected" in page
    assert f"first {MAX_STREAMS} by" in page
    assert all(f"`{state}`" in page or f'"{state}"' in page for state in REPORTS)
    assert list(SCHEDULE_S) == [
        0, 5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)),
    ]  # fmt: skip


def test_the_example_request_has_exactly_the_fields_of_a_real_one() -> None:
    """Compared with what test_retrain checks field by field."""
    page = (DOCS / "retrain-requests.md").read_text(encoding="utf-8")
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    data = json.loads(block[1])["data"]
    source = (DOCS.parent / "aggregator/driftpost_aggregator/retrain_event.py").read_text(encoding="utf-8")
    for part in (data, data["incident"], data["affected"], data["model"], data["ranking"], data["links"]):
        for key in part:
            assert f'"{key}"' in source


def test_what_a_known_bundle_is_told_by_is_explained() -> None:
    page = (DOCS / "retrain-requests.md").read_text(encoding="utf-8")
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    data = json.loads(block[1])["data"]
    assert set(data["reuse"]) == set(Fit.__dataclass_fields__)
    assert data["known_bundles"] == [data["reuse"]]


def test_every_kind_and_format_of_target_and_channel_is_explained() -> None:
    requests = (DOCS / "retrain-requests.md").read_text(encoding="utf-8")
    for name in (*targets.KINDS, *targets.FORMATS):
        assert f"| `{name}` |" in requests
    alerts = (DOCS / "alerts.md").read_text(encoding="utf-8")
    for kind in channels.KINDS:
        assert f'kind = "{kind}"' in alerts
    event = re.search(r"```json\n(.*?)```", alerts, re.DOTALL)
    assert event is not None
    (change,) = json.loads(event[1])["data"]["changes"]
    assert set(change) == {*Change.__dataclass_fields__, "link"}


def test_the_limits_on_labels_are_the_program_s() -> None:
    page = (DOCS / "labels.md").read_text(encoding="utf-8")
    assert f"at most {MAX_LABELS:,} labels" in page
    assert MAX_LABELS_BODY == 4 << 20
    assert KEEP_MS == 90 * 86_400_000
