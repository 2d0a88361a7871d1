"""Reading parameters of an address: each one bounded, and refused with words when it makes no sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request

from driftpost_aggregator.web.errors import BadParameter

# A page of more rows than this would take seconds to draw on a phone.
MAX_LIMIT = 500
# Longest text anyone may filter by; a topic level is at most 255 bytes in practice.
MAX_TEXT = 512
# Filters on attributes in one address; each one costs a look-up for every candidate device.
MAX_ATTRIBUTE_FILTERS = 8

# What people choose from, seconds.
SPANS: Mapping[str, int] = {"1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000}


def text(request: Request, name: str, default: str = "") -> str:
    """A text parameter.

    Raises:
        BadParameter: it is longer than MAX_TEXT or holds a NUL, which no database stores.
    """
    value = request.query_params.get(name, default)
    if len(value) > MAX_TEXT:
        raise BadParameter(name, f"is longer than {MAX_TEXT} characters", "shorten it")
    if "\x00" in value:
        raise BadParameter(name, "holds a NUL character", "leave it out")
    return value


def choice(request: Request, name: str, choices: Sequence[str], default: str) -> str:
    """A parameter with a few allowed values.

    Raises:
        BadParameter: it is none of them.
    """
    value = request.query_params.get(name) or default
    if value not in choices:
        raise BadParameter(name, f"is none of {', '.join(choices)}", "choose one of them, or leave it out")
    return value


def whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number.

    Raises:
        BadParameter: it is not one, or outside low..high.
    """
    value = request.query_params.get(name)
    if value is None or value == "":
        return default
    # int() would also take "1_000" and other digits than ours, and thousands of them slowly.
    if not (value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 20):
        raise BadParameter(name, "is not a whole number", f"give a number from {low} to {high}")
    number = int(value)
    if not low <= number <= high:
        raise BadParameter(name, f"is not from {low} to {high}", f"give a number from {low} to {high}")
    return number


def limit(request: Request, default: int) -> int:
    """How many rows to answer with."""
    return whole(request, "limit", default, 1, MAX_LIMIT)


def attributes(request: Request) -> tuple[tuple[str, str], ...]:
    """Filters of the form ``attribute=key=value``, any number up to MAX_ATTRIBUTE_FILTERS.

    Raises:
        BadParameter: one has no ``=``, is too long, or there are too many.
    """
    given = [value for value in request.query_params.getlist("attribute") if value]
    if len(given) > MAX_ATTRIBUTE_FILTERS:
        raise BadParameter("attribute", f"is given more than {MAX_ATTRIBUTE_FILTERS} times", "leave some out")
    pairs = []
    for value in given:
        key, equals, wanted = value.partition("=")
        if not equals or not key:
            raise BadParameter(
                "attribute", "is not of the form key=value", "write for example attribute=site=north"
            )
        if len(value) > MAX_TEXT or "\x00" in value:
            raise BadParameter(
                "attribute", f"is longer than {MAX_TEXT} characters or holds a NUL", "shorten it"
            )
        pairs.append((key, wanted))
    return tuple(pairs)


def span_s(request: Request, default: str) -> int:
    """How far back to look, seconds: one of SPANS."""
    return SPANS[choice(request, "span", tuple(SPANS), default)]
