"""Page templates: everything is escaped, an unknown name is an error, and words come from words.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from driftpost_aggregator.web import words
from driftpost_aggregator.web.access import person
from driftpost_aggregator.web.assets import assets
from driftpost_aggregator.web.links import address, segment
from driftpost_aggregator.web.parameters import SPANS
from driftpost_aggregator.web.queries.changes import TOPICS
from driftpost_aggregator.web.site import site_of
from driftpost_aggregator.web.stream_table import contribution_words

# What stands in the page's bar: address, name.
_NAVIGATION = (
    ("/", "Fleet"),
    ("/incidents", "Incidents"),
    ("/devices", "Devices"),
    ("/streams", "Streams"),
    ("/requests", "Retrain requests"),
    ("/labels", "Labels"),
    ("/alerts", "Alerts"),
    ("/quarantine", "Quarantine"),
)


def environment() -> Environment:
    """The templates with what they may call."""
    made = Environment(
        loader=PackageLoader("driftpost_aggregator.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        whole=words.whole,
        compact=words.compact,
        number=words.number,
        sd=words.sd,
        percent=words.percent,
        size=words.size,
        duration=words.duration,
        stamp=words.stamp,
        iso=words.iso,
        short=words.short_id,
        kind=words.kind,
        detail=words.detail,
        sensor=words.sensor,
        segment=segment,
    )
    made.globals.update(
        asset=assets().address,
        style_ids=assets().plotly_style_ids,
        navigation=_NAVIGATION,
        address=address,
        span_choices=[(name, name) for name in SPANS],
        scope_words=words.scope,
        effect_words=contribution_words,
        DASH=words.DASH,
    )
    return made


def page(
    request: Request,
    template: str,
    values: Mapping[str, object],
    *,
    section: str = "",
    topics: Sequence[str] = (),
    status: int = 200,
) -> HTMLResponse:
    """A page.

    Args:
        request: What it answers.
        template: File name.
        values: For the template.
        section: Address in the navigation under which the page stands.
        topics: What must change for the page to refresh itself, of TOPICS.
        status: HTTP status code.
    """
    assert set(topics) <= set(TOPICS)
    site = site_of(request)
    html = site.environment.get_template(template).render(
        request=request,
        fleet=site.options.fleet,
        now_ms=site.now_ms(),
        section=section,
        topics=" ".join(topics),
        person=person(request),
        **values,
    )
    return HTMLResponse(html, status)
