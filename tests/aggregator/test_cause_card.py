"""What a cause card says beside the cause: the counterfactual in words, and coverage by the ledgers."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, insert

from driftpost_aggregator.cause_card import rest_words
from driftpost_aggregator.coverage import coverage_of
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import devices, ledgers

ONSET = 1_000_000


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (
            {"devices": 570, "drifts": False, "stream": "brightness", "inside": -0.8, "outside": 0.01},
            "Without it there is no drift: the other 570 devices show none, merged "
            "(brightness is +0.01 sd from its reference there, -0.80 sd inside).",
        ),
        (
            {"devices": 1, "drifts": True, "stream": "x", "inside": 1.0, "outside": 0.9},
            "Without it there is still drift: the other device drifts too "
            "(x is +0.90 sd from its reference there, +1.00 sd inside).",
        ),
        (
            {
                "devices": 3,
                "drifts": False,
                "stream": "class",
                "inside": 0.27,
                "outside": 0.0,
                "unit": "share",
            },
            "Without it there is no drift: the other 3 devices show none, merged "
            "(the share of class that moved most by +0% there, +27% inside).",
        ),
    ],
)
def test_the_counterfactual_is_a_sentence(rest: dict[str, object], words: str) -> None:
    assert rest_words(rest) == words


def device(name: str, last_window_ms: int | None) -> dict[str, object]:
    return {
        "device": name,
        "online": True,
        "first_seen_ms": 0,
        "last_seen_ms": 0,
        "last_window_ms": last_window_ms,
        "windows": 0,
        "parts": 0,
        "rows": 0,
        "quarantined": 0,
    }


def ledger(name: str, incarnation: int, recorded: int, pending: int, lost: int = 0) -> dict[str, object]:
    row: dict[str, object] = {
        "device": name,
        "incarnation": incarnation,
        "sender": incarnation,
        "seq": 1,
        "received_ms": 0,
        "lost_rows_at_start": lost,
    }
    tallies = {
        "recorded": recorded,
        "acked": recorded - pending,
        "pending": pending,
        "quarantined": 0,
        "merged": 0,
    }
    for tally, rows in tallies.items():
        row |= {f"{tally}_windows": 1, f"{tally}_rows": rows}
    return row


def test_coverage_counts_what_has_not_come_and_who_is_silent(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(devices), [device("a", ONSET + 1), device("b", ONSET - 1), device("c", None)]
        )
        connection.execute(
            insert(ledgers),
            [ledger("a", 1, 600, 100, lost=100), ledger("a", 2, 300, 0), ledger("z", 1, 9_999, 9_999)],
        )
    with reading(engine) as connection:
        found = coverage_of(connection, ["a", "b", "c"], ONSET)
        nobody = coverage_of(connection, [], ONSET)
    assert (found.devices, found.silent, found.with_ledger) == (3, 2, 1)
    assert (found.recorded_rows, found.pending_rows, found.lost_rows) == (900, 100, 100)
    assert found.missing == pytest.approx(0.2)
    assert found.to_dict()["missing"] == pytest.approx(0.2)
    assert (nobody.devices, nobody.missing) == (0, None)
