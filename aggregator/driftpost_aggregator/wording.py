"""Causes in words: the one sentence and the title that a person reads first. Pure."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from driftpost_aggregator.causes import Cause, Kind, StreamEvidence
from driftpost_sketches.drift.describe import SHARE

# Streams named in a sentence; the page lists them all.
_NAMED = 2
# A shift below this many reference sd is not what a person would see first; its spread may be.
_VISIBLE = 0.05
# A change of a share below this is none that a person would be told.
_TOLD = 5e-4
# Spread below this share of the reference's is standing still, to a person.
_STILL = 0.1

_KIND_WORDS = {
    Kind.COVARIATE_SHIFT: "inputs drifted",
    Kind.OUTPUT_SHIFT: "outputs drifted while inputs did not",
    Kind.LABEL_SHIFT: "the mix of classes changed",
    Kind.CONCEPT_SHIFT: "answers became worse, or better, by their labels",
    Kind.SENSOR_FAULT: "sensor fault",
    Kind.DATA_QUALITY: "data broken",
    Kind.MODEL_FAULT: "model fault",
    Kind.POISONING: "windows and reports contradict each other",
    Kind.DEVICE_FAULT: "device fault",
}
_DETAIL_WORDS = {
    "stuck": "repeats one value",
    "frozen": "repeats one picture or row",
    "saturated": "is piled up at an end of its range",
    "quantized": "moves in coarser steps than before",
    "noisy": "is noisier than its reference",
    "missing": "is missing",
    "dead": "gives one answer to everything",
    "wrong_scale": "is fed on the wrong scale",
    "new_category": "has categories never seen before",
    "category_share": "has other shares of its categories",
}
# Findings without streams, as a title says them; the sentence has their whole text.
_TITLE_WORDS = {
    "model_fault": "golden inputs are answered otherwise than when the bundle was built",
}


def _signed(value: float, form: str) -> str:
    """A number with a true minus sign, as on every page."""
    return format(value, form).replace("-", "\N{MINUS SIGN}", 1)


def stream_words(part: StreamEvidence, detail: str) -> str:
    """One stream's change: `brightness 3.2 sd lower (-31 level)`."""
    if detail == "concept":
        what, _, slice_ = part.stream.partition(":")
        where = f" of answers {slice_!r}" if slice_ else ""
        # Of a stream that no finding leads with only the name is known.
        size = f" {_signed(part.effect_natural, '+.1%')}" if abs(part.effect_natural) >= _TOLD else " changed"
        return f"{what.replace('_', ' ')}{where}{size}"
    if detail in ("stuck", "frozen", "missing", "dead", "wrong_scale"):
        return f"{part.stream} {_DETAIL_WORDS[detail]}"
    # A numeric stream's finding may lend its unit, the share of rows that repeat or stand at a limit.
    by_share = part.unit == SHARE and detail not in ("saturated", "quantized", "noisy")
    if detail in ("new_category", "category_share") or by_share:
        words = _DETAIL_WORDS["new_category" if detail == "new_category" else "category_share"]
        return f"{part.stream} {words} ({_signed(part.effect, '+.0%')} of rows)"
    # Of a spread that is gone the logarithm has no bound, and would outweigh any shift.
    ratio = max(part.spread, _STILL)
    if abs(part.effect) >= max(_VISIBLE, abs(math.log(ratio))):
        side = "higher" if part.effect > 0 else "lower"
        natural = f" ({_signed(part.effect_natural, '+.3g')} {part.unit})" if part.unit else ""
        words = f"{part.stream} {abs(part.effect):.1f} sd {side}{natural}"
    elif part.spread < _STILL:
        return f"{part.stream} hardly moves any more"
    elif abs(math.log(ratio)) >= _VISIBLE:
        words = f"{part.stream} spreads {ratio:.2g} times as much"
    else:
        words = f"{part.stream} changed its shape"
    if detail in ("saturated", "quantized", "noisy"):
        return f"{words}, {_DETAIL_WORDS[detail]}"
    return words


def place_words(cause: Cause) -> str:
    """Where: `camera=B`, `device meter-07`, `the whole fleet`."""
    if cause.scope == "fleet":
        return "the whole fleet"
    if cause.scope == "group":
        named = "" if cause.kind is Kind.POISONING else " without an attribute in common"
        return f"{len(cause.affected)} devices{named}"
    return f"device {cause.scope_key}" if cause.scope == "device" else cause.scope_key


def _changes(cause: Cause, named: int) -> str:
    if not cause.streams:
        return (named == 1 and _TITLE_WORDS.get(cause.detail)) or cause.text or cause.detail
    if cause.detail == "joint":
        return _hanging_together(cause)
    return ", ".join(stream_words(part, cause.detail) for part in cause.streams[:named])


def _hanging_together(cause: Cause) -> str:
    """A joint change: `temperature and pressure hang together differently (correlation -0.6)`."""
    names = [part.stream for part in cause.streams[:_NAMED]]
    first = ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else f"{names[0]} and others"
    lead = cause.streams[0]
    size = f" (correlation {_signed(lead.effect, '+.2f')})" if lead.unit == "correlation" else ""
    return f"{first} hang together differently{size}"


def title(cause: Cause) -> str:
    """A line for lists: `camera=B: inputs drifted, brightness 3.2 sd lower`."""
    return f"{place_words(cause)}: {_KIND_WORDS[cause.kind]}, {_changes(cause, 1)}"


def sentence(cause: Cause, now_ms: int) -> str:
    """The cause: `camera=B: 4 of 4 devices; brightness 3.2 sd lower, since 14:02 UTC; no other ...`."""
    parts = [_changes(cause, _NAMED) + f", since {since(cause.onset_ms, now_ms)}"]
    if cause.scope not in ("device", "group"):
        parts.insert(0, f"{len(cause.affected)} of {len(cause.members)} devices")
    if cause.scope != "fleet":
        parts.append(_others(cause))
    return f"{place_words(cause)}: " + "; ".join(parts)


def _others(cause: Cause) -> str:
    """What is known of the devices outside the scope; silence since the onset is not health."""
    if cause.elsewhere:
        return f"{cause.elsewhere} other device{'s' if cause.elsewhere > 1 else ''} affected"
    if not cause.unheard:
        return "no other device affected"
    if not cause.heard:
        return "no other device has reported since"
    return f"no other device affected of {cause.heard} that reported since, {cause.unheard} did not"


def since(at_ms: int, now_ms: int) -> str:
    """A moment as people say it: the time today, with the date before."""
    moment = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
    today = datetime.fromtimestamp(now_ms / 1000, timezone.utc).date()
    return moment.strftime("%H:%M UTC" if moment.date() == today else "%Y-%m-%d %H:%M UTC")
