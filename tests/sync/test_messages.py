from __future__ import annotations

import contextlib
import dataclasses
import itertools
import zlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftpost_sync.codec import MAX_SEQ, pack, unpack
from driftpost_sync.errors import MalformedMessage, MessageTooLarge, UnsupportedVersion
from driftpost_sync.messages import (
    MAX_BODY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_READ_BYTES,
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
    printable,
    ranges_of,
)

TIMES = st.integers(0, 10**14)
WINDOW = WindowBody("b1", b"s" * 16, 1, 2, None, None, b"window", b"")
FINDING = FindingBody(
    "f1",
    "b1",
    "raised",
    "shift",
    (("a", 1.0),),
    9.0,
    0.3,
    4.0,
    "lux",
    "up",
    1,
    None,
    2,
    None,
    "text",
    "drift",
)
DESCRIBE = DescribeBody(
    "b1",
    "n",
    "1",
    "0" * 64,
    {"streams": []},
    b"w",
    {"a": 1.0},
    {"a": 2.0},
    {"a": 0.1},
    60.0,
    "1 per device-year",
)
LEDGER = LedgerBody(1, Tally(3, 30), Tally(1, 10), Tally(1, 10), Tally(1, 10))
BOARD = BoardBody(5, None, 60_000, {"temperature": (61.5, 48.25, 55.0, 62.0), "throttled": (0.0,) * 4})
ENVELOPE = Envelope("d", 1, 5, None, False, (Item(1, "window", WINDOW.to_bytes()),))
PRESENCE = Presence(True, 1, "0.1.0")
READERS = {
    "window": (WINDOW, WindowBody.from_bytes),
    "finding": (FINDING, FindingBody.from_bytes),
    "describe": (DESCRIBE, DescribeBody.from_bytes),
    "ledger": (LEDGER, LedgerBody.from_bytes),
    "board": (BOARD, BoardBody.from_bytes),
    "up": (ENVELOPE, Envelope.from_bytes),
    "state": (PRESENCE, Presence.from_bytes),
    "host": (HostPresence(True, 5), HostPresence.from_bytes),
    "ack": (Ack(1, ((1, 2),), ((3, "no"),), ("birth",)), decode_down),
    "command": (Command("c", "n", {"a": [1, {"b": b"c"}]}, b"s"), decode_down),
}


@pytest.mark.parametrize("name", READERS)
def test_every_message_survives_the_round_trip(name):
    message, read = READERS[name]
    assert read(message.to_bytes()) == message


@given(
    st.builds(
        lambda start, length, **fields: WindowBody(mono_start=start, mono_end=start + length, **fields),
        start=TIMES,
        length=TIMES,
        bundle=st.text("0123456789abcdef", min_size=1, max_size=64),
        schema_id=st.binary(min_size=16, max_size=16),
        wall_start=st.none() | TIMES,
        wall_end=st.none() | TIMES,
        window=st.binary(max_size=3000),
        evidence=st.binary(max_size=200).map(lambda half: half * 2),
    )
)
def test_any_window_survives_the_round_trip(body):
    assert decode_body("window", body.to_bytes()) == body


@pytest.mark.parametrize("name", READERS)
def test_every_truncation_is_refused(name):
    message, read = READERS[name]
    data = message.to_bytes()
    for length in range(len(data)):
        with pytest.raises(MalformedMessage):
            read(data[:length])
    with pytest.raises(MalformedMessage):
        read(data + b"\0")


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(name, data):
    message, read = READERS[name]
    raw = bytearray(message.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        assert read(bytes(raw)) is None or read(bytes(raw)) == read(bytes(raw))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    for _, read in READERS.values():
        with pytest.raises(MalformedMessage):
            read(data)


def plain(message):
    return msgpack.unpackb(message.to_bytes())


def packed(message, **changes):
    return msgpack.packb({**plain(message), **changes})


@pytest.mark.parametrize(
    ("data", "reader", "reason"),
    [
        (packed(WINDOW, b=""), WindowBody.from_bytes, "1 to 80 characters"),
        (packed(WINDOW, b=b"b1"), WindowBody.from_bytes, "must be text"),
        (packed(WINDOW, b="b\x00"), WindowBody.from_bytes, "control characters"),
        (packed(WINDOW, s=b"short"), WindowBody.from_bytes, "must be 16 bytes"),
        (packed(WINDOW, m=[2, 1]), WindowBody.from_bytes, "ends before it starts"),
        (packed(WINDOW, m=[1]), WindowBody.from_bytes, "must be .start, end."),
        (packed(WINDOW, m=[None, 1]), WindowBody.from_bytes, "integer"),
        (packed(WINDOW, m=[-1, 1]), WindowBody.from_bytes, "integer"),
        (packed(WINDOW, m=[True, 1]), WindowBody.from_bytes, "integer"),
        (packed(WINDOW, w=[1.5, 1]), WindowBody.from_bytes, "integer"),
        (packed(WINDOW, w=[2**62, 1]), WindowBody.from_bytes, "integer"),
        (packed(WINDOW, e=b"odd"), WindowBody.from_bytes, "whole float16"),
        (packed(FINDING, t="gone"), FindingBody.from_bytes, "one of raised, cleared"),
        (packed(FINDING, e=float("nan")), FindingBody.from_bytes, "finite"),
        (packed(FINDING, e=float("inf")), FindingBody.from_bytes, "finite"),
        (packed(FINDING, n=[["a", 1, 2]]), FindingBody.from_bytes, "pairs"),
        (packed(FINDING, n=[[1, 1.0]]), FindingBody.from_bytes, "must be text"),
        (packed(FINDING, c="elsewhere"), FindingBody.from_bytes, "one of drift"),
        (packed(FINDING, x="x" * 1001), FindingBody.from_bytes, "0 to 1000 characters"),
        (packed(LEDGER, n=[1, -1]), LedgerBody.from_bytes, "integer"),
        (packed(LEDGER, i=0), LedgerBody.from_bytes, "integer"),
        (packed(ENVELOPE, d="a/b"), Envelope.from_bytes, "no valid name"),
        (packed(ENVELOPE, i=2**63), Envelope.from_bytes, "integer"),
        (packed(ENVELOPE, h=1), Envelope.from_bytes, "true or false"),
        (packed(ENVELOPE, x=[[1, "window", b""], [1, "window", b""]]), Envelope.from_bytes, "twice"),
        (packed(ENVELOPE, x=[[0, "window", b""]]), Envelope.from_bytes, "integer"),
        (packed(ENVELOPE, x=[[MAX_SEQ + 1, "window", b""]]), Envelope.from_bytes, "integer"),
        (packed(ENVELOPE, x=[[1, "window"]]), Envelope.from_bytes, "seq, kind, body"),
        (packed(ENVELOPE, x=[[n, "w", b""] for n in range(1, 600)]), Envelope.from_bytes, "at most 512"),
        (packed(PRESENCE, schema=b"12"), Presence.from_bytes, "16 bytes or none"),
        (packed(PRESENCE, attributes={str(n): "" for n in range(65)}), Presence.from_bytes, "at most 64"),
        (packed(PRESENCE, attributes={"a": 1}), Presence.from_bytes, "must be text"),
        (packed(READERS["ack"][0], a=[[2, 1]]), decode_down, "integer"),
        (packed(READERS["ack"][0], a=[[1]]), decode_down, "pairs"),
        (packed(READERS["ack"][0], q=[1]), decode_down, "must be text"),
        (packed(READERS["command"][0], s=b"x" * 65), decode_down, "at most 64"),
        (msgpack.packb([1]), Envelope.from_bytes, "must be a map"),
        (msgpack.packb({"v": 1}), Envelope.from_bytes, "missing"),
        (b"\x82\xa1v\x01\xa1v\x01", Envelope.from_bytes, "twice in one map"),
        (b"\x81\x01\x01", Envelope.from_bytes, "not msgpack"),
        (b"\xc7\x00\x05", Envelope.from_bytes, "ExtType"),
        (b"\xd6\xff\x00\x00\x00\x01", Envelope.from_bytes, "not msgpack"),
        (b"\x91" * 4000, Envelope.from_bytes, "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", Envelope.from_bytes, "exceeds max_array_len"),
        (b"\xc6\xff\xff\xff\xff", Envelope.from_bytes, "not msgpack"),
        (b"\xa1\xff", Envelope.from_bytes, "not UTF-8"),
        (b"\x00" * (MAX_READ_BYTES + 1), Envelope.from_bytes, "at most 65536 are allowed"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_its_reason(data, reader, reason):
    with pytest.raises(MalformedMessage, match=reason):
        reader(data)


def test_deep_nesting_is_refused():
    value: object = 1
    for _ in range(12):
        value = [value]
    with pytest.raises(MalformedMessage, match="nested deeper"):
        unpack(msgpack.packb(value), limit=1000)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_major_version_is_refused_as_such(version):
    for message, read in (READERS["up"], READERS["state"], READERS["ack"], READERS["host"]):
        with pytest.raises(UnsupportedVersion, match="upgrade") as caught:
            read(packed(message, v=version))
        assert caught.value.version == version


def test_an_unknown_type_of_down_message_is_ignored():
    assert decode_down(msgpack.packb({"v": 1, "t": "newer", "x": 1})) is None


def test_an_unknown_kind_is_refused_with_what_to_do():
    with pytest.raises(MalformedMessage, match="unknown kind 'newer'; upgrade the aggregator"):
        decode_body("newer", b"")


def test_an_item_of_a_newer_kind_does_not_spoil_its_envelope():
    envelope = Envelope("d", 1, None, None, True, (Item(2, "newer", b"?"), ENVELOPE.items[0]))
    newer, known = Envelope.from_bytes(envelope.to_bytes()).items
    assert newer.kind == "newer"
    assert decode_body(known.kind, known.body) == WINDOW


def test_a_body_too_large_for_a_message_is_refused_before_it_is_stored():
    for body in (
        dataclasses.replace(WINDOW, window=b"x" * MAX_BODY_BYTES),
        dataclasses.replace(FINDING, text="x" * MAX_BODY_BYTES),
        dataclasses.replace(DESCRIBE, baseline=bytes(range(256)) * 6000),
    ):
        with pytest.raises(MessageTooLarge, match="fewer streams"):
            body.to_bytes()


def test_the_largest_body_still_fits_a_message():
    overhead = len(WINDOW.to_bytes()) - len(WINDOW.window) + 8
    body = dataclasses.replace(WINDOW, window=b"x" * (MAX_BODY_BYTES - overhead)).to_bytes()
    item = Item(MAX_SEQ, "describe", body)
    envelope = Envelope("d" * 63, 2**63 - 1, 10**14, 10**14, True, (item,)).to_bytes()
    assert len(envelope) <= MAX_MESSAGE_BYTES
    assert Envelope.from_bytes(envelope).items[0].body == body


def test_a_description_that_explodes_when_decompressed_is_refused():
    bomb = zlib.compress(b"\0" * (64 << 20), 9)
    assert len(bomb) <= MAX_READ_BYTES + 5000
    with pytest.raises(MalformedMessage):
        DescribeBody.from_bytes(bomb[:MAX_READ_BYTES])
    small = zlib.compress(b"\0" * (8 << 20), 9)
    with pytest.raises(MalformedMessage, match="too large once decompressed"):
        DescribeBody.from_bytes(small)


def test_a_description_of_two_hundred_streams_fits_a_message():
    names = [f"stream_{index}" for index in range(200)]
    schema = {
        "streams": [
            {"name": name, "kind": "numeric", "edges": [index + edge / 7 for edge in range(19)]}
            for index, name in enumerate(names)
        ]
    }
    numbers = {name: index / 3 for index, name in enumerate(names)}
    body = dataclasses.replace(
        DESCRIBE, schema=schema, tau=numbers, n_ref=numbers, smallest_effect=numbers, baseline=b"x" * 8000
    )
    assert DescribeBody.from_bytes(body.to_bytes()) == body


def test_a_description_takes_tuples_and_refuses_a_length_of_zero():
    value = {**{name: getattr(DESCRIBE, name) for name in DescribeBody.__dataclass_fields__}}
    assert DescribeBody.from_plain({**value, "classes": ("a",)}).classes == ("a",)
    for changes in ({"window_s": 0}, {"classes": "abc"}, {"tau": {"a": float("nan")}}, {"schema": 1}):
        with pytest.raises(MalformedMessage):
            DescribeBody.from_plain({**value, **changes})
    with pytest.raises(MalformedMessage, match="must be a map"):
        DescribeBody.from_plain(None)


@given(st.lists(st.integers(1, 60)))
def test_ranges_cover_exactly_their_numbers(seqs):
    ranges = ranges_of(seqs)
    assert {n for first, last in ranges for n in range(first, last + 1)} == set(seqs)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))


def test_a_reason_travels_whatever_it_holds():
    ack = Ack(1, (), ((1, "line\nbreak\x00 \x1b[31m" + "x" * 500),))
    (_, reason), *_ = decode_down(ack.to_bytes()).refused
    assert len(reason) == 200
    assert reason.startswith("line break")
    assert printable("gr\u00fcn") == "gr\u00fcn"


def test_a_command_is_signed_for_one_device_in_one_order():
    one = Command("c", "n", {"b": 1, "a": {"d": 1, "c": [{"f": 1, "e": 2}]}})
    same = Command("c", "n", {"a": {"c": [{"e": 2, "f": 1}], "d": 1}, "b": 1})
    assert one.signed_bytes("pi") == same.signed_bytes("pi")
    assert one.signed_bytes("pi") != one.signed_bytes("pj")


def test_a_ledger_says_whether_it_balances():
    assert LEDGER.balanced
    assert not dataclasses.replace(LEDGER, pending=Tally(0, 0)).balanced


@pytest.mark.parametrize(
    "readings",
    [
        {"": [0.0] * 4},
        {"x" * 41: [0.0] * 4},
        {"t": [0.0] * 3},
        {"t": 1.0},
        {"t": [0.0, 0.0, 0.0, float("nan")]},
        {"t": [0.0, 0.0, 0.0, "hot"]},
        {f"s{number}": [0.0] * 4 for number in range(40)},
    ],
)
def test_a_board_that_breaks_the_protocol_is_refused(readings):
    with pytest.raises(MalformedMessage):
        BoardBody.from_bytes(pack({"m": 5, "w": None, "s": 1, "r": readings}))


def test_a_request_and_its_answer_come_back_as_they_were() -> None:
    given = GivenLabels((GivenLabel("a", (1, "cat")), GivenLabel(1_800_000_000_000, (2,))))
    request = Request("lb-1", "labels", 1_800_000_000_000, given.to_bytes())
    assert decode_down(request.to_bytes()) == request
    assert GivenLabels.from_bytes(request.arguments) == given
    answer = AnswerBody("lb-1", "done", {"counted": 3}, "fine")
    assert decode_body("answer", answer.to_bytes()) == answer


def test_a_request_that_would_not_fit_a_message_is_refused() -> None:
    with pytest.raises(MessageTooLarge):
        Request("lb-1", "labels", 1, b"x" * MAX_BODY_BYTES).to_bytes()


@pytest.mark.parametrize(
    "plain",
    [
        {"a": 1},
        [["a"]],
        [["a", []]],
        [["a", [-1]]],
        [["a", [True]]],
        [["a", [1.5]]],
        [["", [1]]],
        [["a\x00", [1]]],
        [["a" * 201, [1]]],
        [[-1, [1]]],
        [[1.5, [1]]],
        [["a", [1] * 4_097]],
        [["a", [1]]] * 501,
    ],
)
def test_labels_that_break_the_protocol_are_refused(plain: object) -> None:
    with pytest.raises(MalformedMessage):
        GivenLabels.from_bytes(msgpack.packb(plain))


@pytest.mark.parametrize(
    "change",
    [
        {"i": ""},
        {"i": "x" * 81},
        {"o": "perhaps"},
        {"c": {"counted": -1}},
        {"c": {"counted": 1.5}},
        {"c": {"": 1}},
        {"c": {f"n{number}": 1 for number in range(17)}},
        {"c": [1]},
        {"x": "x" * 201},
    ],
)
def test_an_answer_that_breaks_the_protocol_is_refused(change: dict[str, object]) -> None:
    plain = {"i": "lb-1", "o": "done", "c": {"counted": 1}, "x": ""}
    with pytest.raises(MalformedMessage):
        AnswerBody.from_bytes(msgpack.packb(plain | change))


@pytest.mark.parametrize("change", [{"id": ""}, {"n": ""}, {"x": -1}, {"x": None}, {"p": "text"}, {"v": 2}])
def test_a_request_that_breaks_the_protocol_is_refused(change: dict[str, object]) -> None:
    plain = {"v": 1, "t": "req", "id": "lb-1", "n": "labels", "x": 1, "p": b""}
    with pytest.raises(MalformedMessage):
        decode_down(msgpack.packb(plain | change))
