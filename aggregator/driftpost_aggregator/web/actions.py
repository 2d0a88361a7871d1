"""What people do with incidents, from a form or from the API; the changes themselves are `incidents.py`'s."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from driftpost_aggregator import incidents
from driftpost_aggregator.errors import NotPossible, UnknownIncident
from driftpost_aggregator.web.access import MAX_NAME
from driftpost_aggregator.web.errors import BadParameter, Conflict, NotKnown

ACTIONS = ("acknowledge", "mute", "unmute", "resolve", "reopen", "note")
# Choices of the form, hours.
MUTE_HOURS = (1, 4, 24, 72, 168)
# Longer silence is a decision for the policy, not for one incident, hours.
MAX_MUTE_HOURS = 24 * 90
# Who acts when nobody gave a name.
ANONYMOUS = "someone at the dashboard"
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Wish:
    """What someone wants done.

    Attributes:
        action: One of ACTIONS.
        actor: Who.
        note: Remark, or "".
        hours: How long to mute.
    """

    action: str
    actor: str
    note: str
    hours: int

    @classmethod
    def checked(cls, *, action: str, actor: str, note: str, hours: str | int) -> Wish:
        """A wish that makes sense.

        Raises:
            BadParameter: it does not.
        """
        if action not in ACTIONS:
            raise BadParameter("action", f"is none of {', '.join(ACTIONS)}", "choose one of them")
        note = "".join(letter for letter in note if letter.isprintable() or letter in "\n\t").strip()
        if len(note) > incidents.MAX_NOTE_CHARS:
            raise BadParameter(
                "note", f"is longer than {incidents.MAX_NOTE_CHARS} characters", "put the rest into a ticket"
            )
        if action == "note" and not note:
            raise BadParameter("note", "is empty", "write what you want to remember")
        name = "".join(letter for letter in actor if letter.isprintable()).strip()
        if len(name) > MAX_NAME:
            raise BadParameter("actor", f"is longer than {MAX_NAME} characters", "shorten the name")
        if name == incidents.AGGREGATOR:
            raise BadParameter("actor", "is the aggregator's own name", "give yours")
        return cls(action, name or ANONYMOUS, note, _hours(hours) if action == "mute" else 0)


def _hours(hours: str | int) -> int:
    text = str(hours) or str(MUTE_HOURS[0])
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= MAX_MUTE_HOURS):
        raise BadParameter(
            "hours",
            f"is not a whole number from 1 to {MAX_MUTE_HOURS}",
            "say for how many hours to mute",
        )
    return int(text)


def carry_out(engine: Engine, incident: str, wish: Wish, now_ms: int) -> None:
    """Do it; a note that comes with an action is kept as a note of its own.

    Raises:
        NotKnown: there is no such incident.
        Conflict: its state does not allow the action.
    """
    actor, note = wish.actor, wish.note
    try:
        if wish.action == "acknowledge":
            incidents.acknowledge(engine, incident, actor=actor, now_ms=now_ms)
        elif wish.action == "mute":
            until_ms = now_ms + wish.hours * _HOUR_MS
            incidents.mute(engine, incident, until_ms=until_ms, actor=actor, now_ms=now_ms)
        elif wish.action == "unmute":
            incidents.unmute(engine, incident, actor=actor, now_ms=now_ms)
        elif wish.action == "resolve":
            incidents.resolve(engine, incident, actor=actor, now_ms=now_ms, text=note)
        elif wish.action == "reopen":
            incidents.reopen(engine, incident, actor=actor, now_ms=now_ms, text=note)
        if note and wish.action not in ("resolve", "reopen"):
            incidents.note(engine, incident, text=note, actor=actor, now_ms=now_ms)
    except UnknownIncident as error:
        raise NotKnown(str(error), "find it at /incidents?state=all") from error
    except NotPossible as error:
        raise Conflict(str(error), "reload the incident to see its present state") from error
