"""The byte examples of docs/protocol.md are what this release writes, and what it reads."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest

from driftpost_sync.messages import (
    Ack,
    AnswerBody,
    BoardBody,
    Command,
    DescribeBody,
    Envelope,
    FindingBody,
    GivenLabel,
    GivenLabels,
    HostPresence,
    Item,
    LedgerBody,
    Presence,
    Request,
    Tally,
    WindowBody,
    decode_body,
    decode_down,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
SCHEMA = bytes(range(16))
INCARNATION = 3 << 32 | 0x5EED

WINDOW = WindowBody("a1b2", SCHEMA, 1000, 301000, 1767225600000, 1767225900000, b"\x01WINDOW", b"\x00\x3c")
FINDING = FindingBody(
    id="f-1",
    bundle="a1b2",
    state="raised",
    kind="shift",
    streams=(("brightness", 0.75), ("contrast", 0.25)),
    log_e=13.5,
    effect=0.5,
    effect_natural=-12.0,
    unit="lux",
    direction="down",
    onset_mono=1000,
    onset_wall=None,
    mono=301000,
    wall=None,
    text="brightness is 12 lux lower",
    source="drift",
)
LEDGER = LedgerBody(
    INCARNATION,
    Tally(12, 1200),
    Tally(9, 900),
    Tally(2, 200),
    Tally(1, 100),
    Tally(0, 0),
    lost_rows_at_start=7,
)
DESCRIBE = DescribeBody(
    bundle="a1b2",
    name="digits",
    version="1",
    model_sha256="00" * 32,
    schema={"streams": []},
    baseline=b"\x01BASELINE",
    tau={"brightness": 2.0},
    n_ref={"brightness": 5000.0},
    smallest_effect={"brightness": 0.25},
    window_s=300.0,
    budget="1 per device-year",
    classes=("zero", "one"),
    provenance={"tool": "driftpost 0.1.0"},
)
GIVEN = GivenLabels((GivenLabel("0000000300005eed-17", (7,)), GivenLabel(1767225600000, ("seven",))))
EXAMPLES: dict[str, object] = {
    "window": WINDOW,
    "finding": FINDING,
    "ledger": LEDGER,
    "up": Envelope("pi-7", INCARNATION, 302000, None, False, (Item(1, "window", WINDOW.to_bytes()),)),
    "state": Presence(
        True, INCARNATION, "0.1.0", "a1b2", SCHEMA, {"site": "north"}, "onnx 1.32 CPU", None, False
    ),
    "host state": HostPresence(True, 1767225600000),
    "ack": Ack(INCARNATION, ((1, 3), (5, 5)), ((4, "not a window"),), ("ledger",)),
    "command": Command("c-1", "activate", {"bundle": "a1b2"}, b"\x07" * 64),
    "answer": AnswerBody("lb-1", "done", {"counted": 2, "twice": 0, "unknown": 1, "refused": 0}),
    "board": BoardBody(
        302000, None, 3600000, {"temperature": (61.5, 48.25, 55.0, 62.0), "throttled": (0.0, 0.0, 0.0, 0.0)}
    ),
    "request": Request("lb-1", "labels", 1767830400000, GIVEN.to_bytes()),
}


def blocks() -> dict[str, bytes]:
    found = re.findall(r"^```hex ([a-z ]+)\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    result = {}
    for name, text in found:
        assert name not in result, f"two examples named {name}"
        result[name] = bytes.fromhex(re.sub(r";.*", "", text))
    return result


def test_the_page_has_exactly_these_examples():
    assert set(blocks()) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_the_example_byte_for_byte(name):
    assert EXAMPLES[name].to_bytes().hex(" ") == blocks()[name].hex(" ")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_read_as_what_was_meant(name):
    data = blocks()[name]
    if name in ("ack", "command", "request"):
        assert decode_down(data) == EXAMPLES[name]
    elif name in ("window", "finding", "ledger", "answer", "board"):
        assert decode_body(name, data) == EXAMPLES[name]
    else:
        assert type(EXAMPLES[name]).from_bytes(data) == EXAMPLES[name]


def test_a_description_is_the_compressed_map_that_the_page_lists():
    page = PAGE.read_text()
    assert DescribeBody.from_bytes(DESCRIBE.to_bytes()) == DESCRIBE
    for name in DescribeBody.__dataclass_fields__:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "describe"])
def test_the_page_explains_every_key(name):
    page = PAGE.read_text()
    for key in msgpack.unpackb(EXAMPLES[name].to_bytes()):
        assert f"| `{key}` |" in page, f"{key} of {name} is not explained"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_key_added_by_a_newer_minor_version_is_ignored(name):
    plain = msgpack.unpackb(EXAMPLES[name].to_bytes())
    newer = msgpack.packb({**plain, "zz_new": [1, {"a": b"b"}]})
    if name in ("ack", "command", "request"):
        assert decode_down(newer) == EXAMPLES[name]
    else:
        assert type(EXAMPLES[name]).from_bytes(newer) == EXAMPLES[name]
