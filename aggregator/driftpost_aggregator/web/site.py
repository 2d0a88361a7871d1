"""What every request handler needs, built once by `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jinja2 import Environment
from sqlalchemy import Engine
from starlette.requests import Request

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web.effects import Changes
from driftpost_aggregator.web.live import Watcher
from driftpost_aggregator.web.models import Models
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.web.queries.devices import attribute_choices
from driftpost_aggregator.web.queries.fleet import Totals
from driftpost_aggregator.web.recent import Recent

# Totals scan whole tables (40 ms at 100,000 devices); nobody needs them newer than this, seconds.
TOTALS_AGE_S = 2.0
# New attributes appear when devices are set up, seconds.
MENUS_AGE_S = 30.0
# Heat maps decode thousands of windows; pages ask for them far apart, seconds.
DRAWING_AGE_S = 5.0


@dataclass
class Site:
    """The dashboard's parts.

    Attributes:
        engine: The aggregator's database.
        options: How it is served.
        environment: Page templates.
        watcher: Live updates.
        models: What is known of each bundle.
        now_ms: Unix time, milliseconds.
        totals: The fleet's totals, shared by whoever looks.
        changes: Effects of merged windows, remembered.
        menus: Attributes and their values, to filter by.
        drawings: Expensive chart data, shared likewise, as JSON text.
    """

    engine: Engine
    options: WebOptions
    environment: Environment
    watcher: Watcher
    models: Models
    now_ms: Callable[[], int]
    totals: Recent[Totals] = field(default_factory=lambda: Recent(TOTALS_AGE_S))
    changes: Changes = field(default_factory=Changes)
    menus: Recent[dict[str, list[tuple[str, int]]]] = field(default_factory=lambda: Recent(MENUS_AGE_S))
    drawings: Recent[str] = field(default_factory=lambda: Recent(DRAWING_AGE_S))

    def attributes(self) -> dict[str, list[tuple[str, int]]]:
        """Attributes, their values and how many devices have each; shared by menus and maps."""

        def count() -> dict[str, list[tuple[str, int]]]:
            with reading(self.engine) as connection:
                return attribute_choices(connection)

        return self.menus.get("attributes", count)


def site_of(request: Request) -> Site:
    """The site that this request was made to."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site
