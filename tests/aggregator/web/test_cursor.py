"""Cursors come back as the key they were made of, and nothing else is taken for one."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftpost_aggregator.web.cursor import MAX_CURSOR, decode, encode
from driftpost_aggregator.web.errors import BadParameter

TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=200)


@given(st.integers(-(2**63) + 1, 2**63 - 1), TEXT)
def test_a_cursor_is_its_key(number: int, text: str) -> None:
    assert decode(encode(number, text), int, str) == [number, text]


@given(TEXT, st.integers(0, 10))
def test_a_cursor_is_safe_in_an_address(text: str, number: int) -> None:
    assert set(encode(text, number)) <= {*string.ascii_letters, *string.digits, "-", "_"}


@given(st.text(max_size=300))
def test_any_other_text_is_refused_or_happens_to_be_one(text: str) -> None:
    try:
        key = decode(text, int, str)
    except BadParameter:
        return
    assert [type(part) for part in key] == [int, str]


@pytest.mark.parametrize(
    "cursor",
    [
        encode("a", 1),
        encode(1),
        encode(1, "a", "b"),
        encode(2**63, "a"),
        encode(True, "a"),  # type: ignore[arg-type]
        "W10",
        "e30",
        "bnVsbA",
        "x" * (MAX_CURSOR + 1),
        "W1tbW1tbW1tb" * 100,
        "",
        "=",
    ],
)
def test_keys_of_another_kind_are_refused(cursor: str) -> None:
    with pytest.raises(BadParameter):
        decode(cursor, int, str)
