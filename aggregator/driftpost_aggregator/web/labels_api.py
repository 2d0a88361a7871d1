"""Labels over the API: pushed by people and programs, and what became of them."""

from __future__ import annotations

import uuid

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.errors import LabelsUnreadable
from driftpost_aggregator.incidents import AGGREGATOR
from driftpost_aggregator.labels.queue import push_labels
from driftpost_aggregator.labels.reading import FORMATS, read_labels
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.access import MAX_NAME, person
from driftpost_aggregator.web.answers import Json
from driftpost_aggregator.web.bodies import read_body
from driftpost_aggregator.web.errors import BadParameter, BodyRefused, NotKnown
from driftpost_aggregator.web.plain import plain
from driftpost_aggregator.web.queries import labels
from driftpost_aggregator.web.site import site_of

# 20,000 labels with ids of 36 characters and names are 2 MB of JSON.
MAX_LABELS_BODY = 4 << 20
_PER_PAGE = 100
# Who pushes when nobody gave a name.
_PROGRAM = "a program"


async def post_labels(request: Request) -> Response:
    """`POST /api/v1/labels`: device, inference or time, and label, as JSON or CSV; `device`, `actor`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in FORMATS:
        raise BodyRefused(415, "the labels are of no type that is taken", f"send {', '.join(FORMATS)}")
    device = parameters.text(request, "device") or None
    name = person(request) or parameters.text(request, "actor")
    actor = "".join(letter for letter in name if letter.isprintable())[:MAX_NAME].strip() or _PROGRAM
    if actor == AGGREGATOR:
        raise BadParameter("actor", "is the aggregator's own name", "give yours")
    body = await read_body(request, MAX_LABELS_BODY)
    site = site_of(request)

    def push() -> object:
        try:
            found = read_labels(body, kind, device=device)
        except LabelsUnreadable as error:
            raise BodyRefused(400, f"the push {error.problem}", "see docs/labels.md") from error
        return push_labels(
            site.engine,
            found,
            push=f"lp-{uuid.uuid4().hex[:16]}",
            actor=actor,
            now_ms=site.now_ms(),
            expire_s=site.options.labels_expire_s,
        )

    # 202: it is queued; what becomes of it the devices will say.
    return Json(plain(await run_in_threadpool(push)), 202)


def get_labels(request: Request) -> Response:
    """`GET /api/v1/labels`: parts on their way to devices, newest first; `state`, `device`, `push`."""
    site = site_of(request)
    state = parameters.choice(request, "state", ("", *labels.STATES), "")
    with reading(site.engine) as connection:
        found = labels.list_batches(
            connection,
            state=state,
            device=parameters.text(request, "device"),
            push=parameters.text(request, "push"),
            limit=parameters.limit(request, _PER_PAGE),
            cursor=parameters.text(request, "cursor") or None,
        )
    return Json({"items": plain(found.items), "next": found.next})


def get_push(request: Request) -> Response:
    """`GET /api/v1/labels/{push}`: one push, with its first parts."""
    site, name = site_of(request), request.path_params["push"]
    with reading(site.engine) as connection:
        found = labels.push_named(connection, name)
        if found is None:
            raise NotKnown(f"no push {name!r}", "its id stands in the answer to the push")
        parts = labels.list_batches(connection, push=name, limit=_PER_PAGE)
    answer = plain(found)
    assert isinstance(answer, dict)
    return Json({**answer, "parts": {"items": plain(parts.items), "next": parts.next}})
