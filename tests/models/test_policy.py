from __future__ import annotations

from pathlib import Path

import pytest

from driftpost_models.errors import ConfigError
from driftpost_models.policy import Policy
from driftpost_models.reasons import REASON_NAMES, Reason
from driftpost_models.site_policy import SitePolicy

FULL = Policy(
    budget="2 per fleet-month",
    smallest_effect=0.25,
    smallest_effects={"brightness": 0.5, 'odd "name"': 0.125},
    on_bad_verdict="abstain",
    reasons={"frozen": "fallback", "low_confidence": "flag"},
    min_confidence=0.4,
    window_seconds=60,
    site=SitePolicy(baseline=True, commission="50,000 rows", on_alarm="accept", keep=False),
)


@pytest.mark.parametrize("policy", [Policy(), Policy(joint=False), FULL])
def test_a_policy_survives_its_file(policy: Policy) -> None:
    assert Policy.from_toml(policy.to_toml()) == policy


def test_single_reasons_and_streams_override_the_rest() -> None:
    assert FULL.action("frozen") == "fallback"
    assert FULL.action("shape") == "abstain"
    assert FULL.effect("brightness") == 0.5
    assert FULL.effect("contrast") == 0.25


def test_the_default_is_to_flag_and_one_false_alarm_a_device_year() -> None:
    assert Policy().budget == "1 per device-year"
    assert {Policy().action(name) for name in REASON_NAMES} == {"flag"}


def test_the_codes_of_reasons_never_change() -> None:
    assert {reason.label: int(reason) for reason in Reason} == {
        "ok": 0,
        "shape": 1,
        "dtype": 2,
        "nonfinite_input": 3,
        "out_of_range": 4,
        "frozen": 5,
        "saturated": 6,
        "nonfinite_output": 7,
        "low_confidence": 8,
        "model_failed": 9,
    }
    assert "ok" not in REASON_NAMES


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('buget = "1 per device-year"', r"buget: unknown key; did you mean 'budget'"),
        ('budget = "often"', r"budget"),
        ('[site]\ncommission = "soon"', r"site.commission: 'soon' does not say how long"),
        ('[site]\ncommission = "10 rows"', r"site.commission"),
        ("[site]\nbaseline = 1", r"must be true or false"),
        ('[site]\non_alarm = "ignore"', r"not one of hold, accept"),
        ("[site]\nkeeps = true", r"site.keeps: unknown key; did you mean 'keep'"),
        ("budget = 3", r"must be a text"),
        ('on_bad_verdict = "abstian"', r"did you mean 'abstain'"),
        ("smallest_effect = -1", r"between 0 and 10"),
        ("smallest_effect = nan", r"must be a number"),
        ("smallest_effect = true", r"must be a number"),
        ("min_confidence = 1.5", r"between 0 and 1"),
        ("window_seconds = 0", r"between"),
        ('[reasons]\nfrosen = "flag"', r"reasons.frosen: unknown reason; did you mean 'frozen'"),
        ('[reasons]\nfrozen = "ignore"', r"one of flag"),
        ('[smallest_effects]\nx = "big"', r"must be a number"),
        ("budget", r"not TOML"),
    ],
)
def test_what_can_not_be_meant_is_an_error_that_says_what_can(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Policy.from_toml(text)


def test_changes_are_checked_like_files() -> None:
    assert Policy().with_(budget="1 per fleet-week").budget == "1 per fleet-week"
    assert FULL.with_(smallest_effect=0.5).smallest_effects == FULL.smallest_effects
    with pytest.raises(ConfigError, match="budget"):
        Policy().with_(budget="never")


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not be read"):
        Policy.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="can not be read"):
        Policy.load(broken)
    broken.write_bytes(b"# " + bytes([65]) * (1 << 20))
    with pytest.raises(ConfigError, match="at most"):
        Policy.load(broken)
