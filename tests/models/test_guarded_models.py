"""Models of every sort are guarded, refused with a reason, or contained; the page says so of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.guarded_models import BEGIN, END, aborts, guarded, hangs, made, published
from models.test_real_models import MODELS, REFUSED
from realdata import needs_realdata

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def table() -> dict[str, dict[str, str]]:
    lines = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    names = [cell.strip() for cell in lines[0].strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.mark.parametrize(
    "name",
    ["made: int16 (TFLite)", "made: two inputs and a scalar (ONNX)", "made: explicit state (ONNX)"],
)
def test_odd_models_are_guarded_as_the_page_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(made()[name])
    outcome = guarded(name, tmp_path / "model")
    assert (outcome.word, outcome.answered, outcome.streams > 0) == ("guarded", outcome.calls, True)
    row = table()[name]
    assert (row["outcome"], row["takes"], row["gives"]) == ("guarded", outcome.takes, outcome.gives)
    assert row["streams"] == str(outcome.streams)


@pytest.mark.parametrize("name", ["made: texts (ONNX)", "made: cut short (ONNX)", "made: no model at all"])
def test_what_can_not_be_guarded_is_refused_with_the_reason_on_the_page(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(made()[name])
    outcome = guarded(name, tmp_path / "model")
    assert outcome.word == "refused"
    assert table()[name]["by what, or why"] == outcome.detail


def test_a_model_that_hangs_or_aborts_costs_one_call() -> None:
    for outcome, words in ((hangs(), "did not answer within"), (aborts(), "SIGABRT")):
        assert (outcome.word, outcome.answered) == ("contained", 2)
        assert words in outcome.detail
        assert "model_failed" in table()[outcome.name]["by what, or why"]


def test_every_model_of_the_tests_own_is_on_the_page() -> None:
    assert set(made()) <= set(table())


@needs_realdata
def test_every_published_model_is_on_the_page_guarded_or_refused() -> None:
    rows = table()
    for name, _ in published(MODELS):
        assert rows[name]["outcome"] == ("refused" if name in REFUSED else "guarded")
        if name not in REFUSED:
            answered, of, calls = rows[name]["answered"].split()
            assert (answered, of) == (calls, "of")
