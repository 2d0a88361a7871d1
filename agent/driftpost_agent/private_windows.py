"""Windows on their way out under differential privacy: held and merged, then released once, with noise.

Closed windows are merged into one that is held in the store until it covers `release_seconds`, and then
leaves with noise on every count, charged to the device's budget. Where the budget does not allow that yet,
the held window goes on growing: coarser in time, never noisier. When the total is spent, windows stay on
the device.

What is released is written into the outbox in the transaction that charges for it, so a crash neither
releases a window twice (a second draw would halve the noise) nor forgets that it was paid for.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from driftpost_sketches.errors import SketchError
from driftpost_sketches.privacy.accountant import Accountant, rho_of, share_of_day
from driftpost_sketches.privacy.discrete_gaussian import RandomNumbers
from driftpost_sketches.privacy.release import plan_release, release
from driftpost_sketches.schema import Schema
from driftpost_sketches.window import Window
from driftpost_sync.errors import MessageTooLarge
from driftpost_sync.messages import FindingBody, WindowBody
from driftpost_sync.settings import Settings

log = logging.getLogger(__name__)

# Findings that say something about the rows themselves; the others are about the device.
ABOUT_ROWS = ("drift", "quality")
SPENT = "privacy_spent"


@dataclass(frozen=True)
class PrivacyPolicy:
    """How windows may leave; see `[privacy]` in docs/agent.md.

    Attributes:
        epsilon_per_day: loss that the data of any 24 hours of running time may have.
        delta: probability that it is more.
        total_epsilon: loss for good, inf for no limit.
        release_ms: length of what is released at once.
        rows_per_subject: rows of one subject in a release.
        send_findings: whether findings about rows and sketches of labels leave, which the budget does not
            cover.
    """

    epsilon_per_day: float
    delta: float = 1e-6
    total_epsilon: float = math.inf
    release_ms: int = 3_600_000
    rows_per_subject: int = 1
    send_findings: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> PrivacyPolicy | None:
        """What agent.toml asks for; None if windows leave as they are."""
        daily = settings.optional("privacy.epsilon_per_day", float)
        if daily is None:
            return None
        total = settings.optional("privacy.epsilon_total", float)
        return cls(
            daily,
            settings.number("privacy.delta"),
            math.inf if total is None else total,
            round(settings.number("privacy.release_seconds") * 1000),
            settings.integer("privacy.rows_per_subject"),
            settings.flag("privacy.send_findings"),
        )

    def sends(self, finding: FindingBody) -> bool:
        """Whether a finding may leave.

        One that names streams was drawn from the rows, also where the first of them is about the device.
        """
        return self.send_findings or not (finding.source in ABOUT_ROWS or finding.streams)

    @property
    def account(self) -> Accountant:
        """The budget, nothing spent."""
        total = math.inf if math.isinf(self.total_epsilon) else rho_of(self.total_epsilon, self.delta)
        return Accountant(rho_of(self.epsilon_per_day, self.delta), total)


@dataclass(frozen=True)
class Spending:
    """What is remembered between releases, of the whole device.

    Attributes:
        account: the budget and what is spent of it.
        elapsed_ms: running time covered by windows so far; what several bundles cover at once counts once.
        last: incarnation and monotonic ms of the latest end of a window.
        begun: by bundle, where in the running time the window that is held begins.
    """

    account: Accountant
    elapsed_ms: int = 0
    last: tuple[int, int] = (0, 0)
    begun: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, db: sqlite3.Connection, policy: PrivacyPolicy) -> Spending:
        """From the store, in the caller's transaction."""
        row = db.execute("select state from privacy_account where id = 1").fetchone()
        if row is None:
            return cls(policy.account)
        plain = json.loads(row[0])
        incarnation, end = plain["last"]
        return cls(
            policy.account.remembering(plain["spent"], plain["recent"]),
            int(plain["elapsed_ms"]),
            (int(incarnation), int(end)),
            dict(plain["begun"]),
        )

    def save(self, db: sqlite3.Connection) -> None:
        """Into the store, in the caller's transaction."""
        plain = json.dumps(
            {
                **self.account.to_plain(),
                "elapsed_ms": self.elapsed_ms,
                "last": self.last,
                "begun": dict(self.begun),
            }
        )
        db.execute("insert or replace into privacy_account (id, state) values (1, ?)", (plain,))

    def after(self, body: WindowBody, incarnation: int) -> Spending:
        """With the time that a window covers."""
        own = body.mono_end - body.mono_start
        # Monotonic times of another start can not be compared.
        end = self.last[1] if self.last[0] == incarnation else body.mono_start
        elapsed = self.elapsed_ms + max(0, min(own, body.mono_end - end))
        begins = elapsed - max(0, end - body.mono_end) - own
        return replace(
            self,
            elapsed_ms=elapsed,
            last=(incarnation, max(end, body.mono_end)),
            begun={**self.begun, body.bundle: min(begins, self.begun.get(body.bundle, begins))},
        )

    def released(self, bundle: str, rho: float) -> Spending:
        """With the window that is held for a bundle released, and paid for."""
        return replace(
            self,
            account=self.account.charge(rho, self.begun[bundle], self.elapsed_ms),
            begun={name: begins for name, begins in self.begun.items() if name != bundle},
        )


class PrivateWindows:
    """Holds and releases the windows of one bundle.

    Args:
        policy: from the settings.
        schema: of the bundle's windows.
        baseline: sketch of its reference.
        random: source of the noise; the operating system's if None.

    Raises:
        PrivacyError: the settings ask for so much noise that nothing would be left.
    """

    def __init__(
        self, policy: PrivacyPolicy, schema: Schema, baseline: Window, random: RandomNumbers | None = None
    ) -> None:
        self.policy = policy
        self._schema = schema
        self._baseline = baseline
        self._random = random or secrets.SystemRandom()
        self._plan = plan_release(
            schema, share_of_day(policy.account.daily, policy.release_ms), policy.rows_per_subject
        )

    def offer(self, db: sqlite3.Connection, body: WindowBody, incarnation: int) -> WindowBody | None:
        """Take in a closed window, in the caller's transaction.

        Returns:
            What may leave now, None while it is held.
        """
        spending = Spending.load(db, self.policy).after(body, incarnation)
        held, span_ms = _joined(db, body)
        begun = spending.begun[body.bundle]
        if span_ms < self.policy.release_ms or not spending.account.affords(self._plan.rho, begun):
            _hold(db, held, span_ms, incarnation)
            spending.save(db)
            return None
        exact = Window.from_bytes(held.window)
        noised = release(exact, self._schema, self._baseline, self._plan, self._random)
        db.execute("delete from privacy_holds where bundle = ?", (held.bundle,))
        spending.released(held.bundle, self._plan.rho).save(db)
        # Evidence is computed from the exact rows.
        return replace(held, window=noised.to_bytes(), evidence=b"")

    def exhausted(self, db: sqlite3.Connection) -> bool:
        """Whether nothing will ever be released again under this budget."""
        return Spending.load(db, self.policy).account.exhausted(self._plan.rho)


def hold(db: sqlite3.Connection, policy: PrivacyPolicy, body: WindowBody, incarnation: int) -> None:
    """Hold what a killed process left behind, in the caller's transaction, until the next window comes."""
    spending = Spending.load(db, policy).after(body, incarnation)
    held, span_ms = _joined(db, body)
    _hold(db, held, span_ms, incarnation)
    spending.save(db)


def _joined(db: sqlite3.Connection, body: WindowBody) -> tuple[WindowBody, int]:
    """The held window with this one, and the running time it covers."""
    own = body.mono_end - body.mono_start
    row = db.execute("select body, span_ms from privacy_holds where bundle = ?", (body.bundle,)).fetchone()
    if row is None:
        return body, own
    before, span_ms = WindowBody.from_bytes(bytes(row[0])), int(row[1])
    try:
        window = Window.from_bytes(before.window).merge(Window.from_bytes(body.window)).to_bytes()
        joined = replace(
            body,
            window=window,
            # What was held over a restart has no time on this clock: it counts as just before.
            mono_start=max(0, min(body.mono_start, body.mono_end - own - span_ms)),
            wall_start=before.wall_start if before.wall_start is not None else body.wall_start,
        )
        joined.to_bytes()
    except (SketchError, MessageTooLarge) as error:
        log.error("a held window is dropped, it can't be joined with the next: %s", error)
        return body, own
    return joined, own + span_ms


def _hold(db: sqlite3.Connection, body: WindowBody, span_ms: int, incarnation: int) -> None:
    own = Window.from_bytes(body.window).rows
    before = db.execute(
        "select rows, incarnation, held_rows from privacy_holds where bundle = ?", (body.bundle,)
    ).fetchone()
    if before is not None:
        # `rows` are this incarnation's alone: what a kill loses is counted against them.
        own -= int(before[2]) - (int(before[0]) if before[1] == incarnation else 0)
    db.execute(
        "insert or replace into privacy_holds (bundle, body, span_ms, held_rows, rows, incarnation)"
        " values (?, ?, ?, ?, ?, ?)",
        (body.bundle, body.to_bytes(), span_ms, Window.from_bytes(body.window).rows, own, incarnation),
    )
