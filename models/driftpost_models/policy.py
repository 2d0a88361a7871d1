"""What the owner asks of the guard: budget, smallest change, season, slices, site, and bad verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from driftpost_models.errors import ConfigError
from driftpost_models.reasons import REASON_NAMES
from driftpost_models.site_policy import NO_SITE, SitePolicy, parse_site
from driftpost_models.strict_table import StrictTable, nearest, parse_toml, read_toml
from driftpost_sketches.derived.phase import CLOCKS, STREAM
from driftpost_sketches.derived.wishes import SeasonWish, SliceWish
from driftpost_sketches.drift.budget import Budget

ACTIONS = ("flag", "abstain", "fallback")

DEFAULT_BUDGET = "1 per device-year"
DEFAULT_SMALLEST_EFFECT = 0.1
"""Reference standard deviations: half of what is commonly called a small change."""

DEFAULT_WINDOW_SECONDS = 300.0

SHORTEST_WINDOW_SECONDS = 0.1
LONGEST_WINDOW_SECONDS = 86_400.0
"""Seconds. Beyond a day an alarm comes too late to be an alarm."""

EVERY = "*"
"""Every watched numeric stream of the inputs and outputs."""

DEFAULT_SLICES = 8
MOST_SLICES = 64
"""Slices by one stream; beyond it each has too little of the evidence to be worth its cost."""


@dataclass(frozen=True)
class Policy:
    """The owner's wishes.

    Attributes:
        budget: false alarms allowed, in words, such as `1 per device-year`.
        smallest_effect: smallest change worth an alarm, in reference standard deviations.
        smallest_effects: the same for single streams by name.
        on_bad_verdict: `flag` (answer with a warning), `abstain` (no answer) or `fallback` (another model's).
        reasons: the same for single reasons by name.
        min_confidence: answers below it are bad (share, 0 to 1); None turns the check off.
        window_seconds: length of a window.
        season: what is usual by the hour, or by a context; None for one normal at all hours.
        slices: what is also watched within single categories; None for nothing.
        site: whether and how a device learns a normal of its own.
        joint: whether changes of how several streams hang together are watched for.
    """

    budget: str = DEFAULT_BUDGET
    smallest_effect: float = DEFAULT_SMALLEST_EFFECT
    smallest_effects: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    on_bad_verdict: str = "flag"
    reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    min_confidence: float | None = None
    window_seconds: float = DEFAULT_WINDOW_SECONDS
    season: SeasonWish | None = None
    slices: SliceWish | None = None
    site: SitePolicy = NO_SITE
    joint: bool = True

    def action(self, reason: str) -> str:
        """What a bad verdict with this reason does.

        Args:
            reason: one of `driftpost_models.reasons.REASON_NAMES`.
        """
        return self.reasons.get(reason, self.on_bad_verdict)

    def effect(self, stream: str) -> float:
        """Smallest change of a stream worth an alarm, in reference standard deviations."""
        return self.smallest_effects.get(stream, self.smallest_effect)

    def with_(self, **changes: object) -> Policy:
        """A copy with some fields changed and everything checked again.

        Raises:
            ConfigError: a value is not possible.
        """
        return parse_policy(StrictTable(_plain(replace(self, **changes)), "policy"))  # type: ignore[arg-type]  # checked by the parser

    def to_dict(self) -> dict[str, object]:
        """Plain types, with the keys of a policy file."""
        return _plain(self)

    def to_toml(self) -> str:
        """The policy as a file that `Policy.from_toml` reads back equal."""
        lines = []
        tables = []
        for key, value in _plain(self).items():
            if isinstance(value, dict):
                tables += ["", f"[{key}]", *(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items())]
            else:
                lines.append(f"{key} = {_toml(value)}")
        return "\n".join([*lines, *tables]) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Policy:
        """Read a policy strictly.

        Raises:
            ConfigError: not TOML, an unknown key or an impossible value.
        """
        return parse_policy(StrictTable(parse_toml(text, "policy")))

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises:
            ConfigError: as `from_toml`, or the file can not be read.
        """
        return parse_policy(StrictTable(read_toml(path)))


def _plain(policy: Policy) -> dict[str, object]:
    plain: dict[str, object] = {
        "budget": policy.budget,
        "smallest_effect": policy.smallest_effect,
        "on_bad_verdict": policy.on_bad_verdict,
        "window_seconds": policy.window_seconds,
    }
    if not policy.joint:
        plain["joint"] = False
    if policy.min_confidence is not None:
        plain["min_confidence"] = policy.min_confidence
    if policy.smallest_effects:
        plain["smallest_effects"] = dict(policy.smallest_effects)
    if policy.reasons:
        plain["reasons"] = dict(policy.reasons)
    if policy.season is not None:
        plain["season"] = {
            "by": policy.season.by,
            "streams": EVERY if policy.season.streams is None else list(policy.season.streams),
            "clock": "local" if policy.season.local else "utc",
        }
    if policy.slices is not None:
        plain["slices"] = {
            "by": list(policy.slices.by),
            "streams": EVERY if policy.slices.streams is None else list(policy.slices.streams),
            "most": policy.slices.most,
        }
    if policy.site != NO_SITE:
        plain["site"] = policy.site.to_dict()
    return plain


def _toml(value: object) -> str:
    # JSON's texts, numbers and lists of texts are TOML's; as floats they are read back as what they were.
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return json.dumps(float(value))
    return json.dumps(value)


def parse_policy(table: StrictTable) -> Policy:
    """Take a policy from a parsed table.

    Raises:
        ConfigError: an unknown key or an impossible value.
    """
    default = Policy()
    budget = table.text("budget", default.budget)
    try:
        Budget.parse(str(budget))
    except ValueError as error:
        raise ConfigError(table.path("budget"), str(error)) from error
    effects = table.table("smallest_effects")
    reasons = table.table("reasons")
    policy = Policy(
        budget=str(budget),
        smallest_effect=table.number("smallest_effect", default.smallest_effect, low=0.0, high=10.0) or 0.0,
        smallest_effects=MappingProxyType(
            {}
            if effects is None
            else {k: effects.number(k, 0.0, low=0.0, high=10.0) or 0.0 for k in effects.names()}
        ),
        on_bad_verdict=table.text("on_bad_verdict", default.on_bad_verdict, choices=ACTIONS) or "flag",
        reasons=MappingProxyType({} if reasons is None else _reasons(reasons)),
        joint=table.flag("joint", True) is not False,
        min_confidence=table.number("min_confidence", None, low=0.0, high=1.0),
        window_seconds=table.number(
            "window_seconds", default.window_seconds, low=SHORTEST_WINDOW_SECONDS, high=LONGEST_WINDOW_SECONDS
        )
        or default.window_seconds,
        season=_season(table.table("season")),
        slices=_slices(table.table("slices")),
        site=parse_site(table.table("site")),
    )
    table.done()
    return policy


def _season(table: StrictTable | None) -> SeasonWish | None:
    if table is None:
        return None
    by = table.text("by") or ""
    if by not in CLOCKS and not by.startswith(STREAM):
        raise ConfigError(
            table.path("by"), f"is one of {', '.join(CLOCKS)}, or {STREAM}NAME{nearest(by, tuple(CLOCKS))}"
        )
    wish = SeasonWish(by, _names(table), table.text("clock", "utc", choices=("utc", "local")) == "local")
    table.done()
    return wish


def _slices(table: StrictTable | None) -> SliceWish | None:
    if table is None:
        return None
    by = table.texts("by")
    if not by:
        raise ConfigError(table.path("by"), 'must name categorical streams, such as ["class"]')
    most = table.number("most", DEFAULT_SLICES, low=1, high=MOST_SLICES) or DEFAULT_SLICES
    if most != int(most):
        raise ConfigError(table.path("most"), f"must be a whole number, not {most:g}")
    wish = SliceWish(tuple(by), _names(table), int(most))
    table.done()
    return wish


def _names(table: StrictTable) -> tuple[str, ...] | None:
    """Stream names, or None for every one."""
    if table.raw("streams") in (None, EVERY):
        return None
    names = table.texts("streams")
    if not names:
        raise ConfigError(table.path("streams"), f'must be "{EVERY}" or a list of stream names')
    return tuple(names)


def _reasons(table: StrictTable) -> dict[str, str]:
    found = {}
    for key in table.names():
        if key not in REASON_NAMES:
            raise ConfigError(
                table.path(key),
                f"unknown reason{nearest(key, REASON_NAMES)} (known: {', '.join(REASON_NAMES)})",
            )
        found[key] = table.text(key, None, choices=ACTIONS) or "flag"
    return found
