"""Whether a device learns its own normal, for how long, and what an alarm meanwhile does."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_models.errors import ConfigError
from driftpost_models.strict_table import StrictTable
from driftpost_sketches.commissioning.commissioning import Plan, PlanError

DEFAULT_COMMISSION = "7 days"
HOLD, ACCEPT = "hold", "accept"


@dataclass(frozen=True)
class SitePolicy:
    """The owner's wishes about site baselines.

    Attributes:
        baseline: whether a device with reference data learns a normal of its own beside it. A device without
            any always does.
        commission: how long it learns, in words such as `7 days` or `50,000 rows`.
        on_alarm: what an alarm does that is raised while it learns: `hold` (it learns no further until the
            alarm is cleared, or a person accepts it) or `accept` (what it shows becomes part of the normal).
        keep: whether a new bundle with the same streams and bins keeps the normal that was learnt.
    """

    baseline: bool = False
    commission: str = DEFAULT_COMMISSION
    on_alarm: str = HOLD
    keep: bool = True

    @property
    def plan(self) -> Plan:
        """How long it learns."""
        return Plan.parse(self.commission)

    def to_dict(self) -> dict[str, object]:
        """Plain types, with the keys of a policy file."""
        return {
            "baseline": self.baseline,
            "commission": self.commission,
            "on_alarm": self.on_alarm,
            "keep": self.keep,
        }


NO_SITE = SitePolicy()
"""What holds where nobody asked for anything."""


def parse_site(table: StrictTable | None) -> SitePolicy:
    """Takes the table `[site]`; the defaults where there is none.

    Raises:
        ConfigError: an unknown key or an impossible value.
    """
    default = NO_SITE
    if table is None:
        return default
    commission = table.text("commission", default.commission) or default.commission
    try:
        Plan.parse(commission)
    except PlanError as error:
        raise ConfigError(table.path("commission"), str(error)) from error
    policy = SitePolicy(
        baseline=bool(table.flag("baseline", default.baseline)),
        commission=commission,
        on_alarm=table.text("on_alarm", default.on_alarm, choices=(HOLD, ACCEPT)) or HOLD,
        keep=bool(table.flag("keep", default.keep)),
    )
    table.done()
    return policy
