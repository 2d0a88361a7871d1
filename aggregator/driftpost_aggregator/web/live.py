"""Live updates: one watcher asks the database what changed, every open page is told over Server-Sent Events.

Pages then fetch themselves again and swap what differs, so there is one way to draw a page, not two. The
watcher looks at a few indexed maxima, only while somebody listens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response, StreamingResponse

from driftpost_aggregator.web.answers import problem

_log = logging.getLogger(__name__)

# How soon a page may know of a change, seconds; people do not see the difference to less.
POLL_INTERVAL_S = 1.0
# An event this often keeps proxies from closing a quiet connection, and tells the page that we are there,
# seconds.
HEARTBEAT_S = 15.0
# Open pages at once; each holds a connection. Further ones poll instead.
MAX_LISTENERS = 256
# A browser that lost us comes back after this, milliseconds.
_RETRY_MS = 3000

Stamps = Mapping[str, object]


class Listener:
    """One open page: collects the topics that changed since it was last told."""

    def __init__(self) -> None:
        self._topics: set[str] = set()
        self._something = anyio.Event()

    def tell(self, topics: set[str]) -> None:
        """Note that these changed."""
        self._topics |= topics
        self._something.set()

    async def next(self) -> set[str]:
        """Wait for a change; empty after HEARTBEAT_S without one."""
        with anyio.move_on_after(HEARTBEAT_S):
            await self._something.wait()
        topics, self._topics, self._something = self._topics, set(), anyio.Event()
        return topics


class Watcher:
    """Asks `read` for stamps by topic and tells listeners which differ from the time before.

    Args:
        read: Called in a worker thread; a stamp is anything comparable that changes with its topic.
        interval_s: Seconds between two looks.
    """

    def __init__(self, read: Callable[[], Stamps], interval_s: float = POLL_INTERVAL_S) -> None:
        self._read = read
        self._interval_s = interval_s
        self._listeners: set[Listener] = set()
        self._wanted = anyio.Event()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many pages listen now."""
        return len(self._listeners)

    @property
    def closed(self) -> bool:
        """Whether the server is stopping."""
        return self._closed

    def close(self) -> None:
        """End every open stream; call it in the event loop's own thread, before the server stops."""
        self._closed = True
        for listener in self._listeners:
            listener.tell(set())
        self._wanted.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """A listener for as long as the block runs."""
        listener = Listener()
        self._listeners.add(listener)
        self._wanted.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def run(self) -> None:
        """Look until closed."""
        before: Stamps | None = None
        while not self._closed:
            if not self._listeners:
                before, self._wanted = None, anyio.Event()
                await self._wanted.wait()
                continue
            before = await self._look(before)
            await anyio.sleep(self._interval_s)

    async def _look(self, before: Stamps | None) -> Stamps | None:
        try:
            now = await anyio.to_thread.run_sync(self._read)
        except SQLAlchemyError as error:
            # A database that restarts comes back; pages show what they had until then.
            _log.warning("live updates wait for the database: %s", error)
            return before
        if before is not None:
            changed = {topic for topic, value in now.items() if before.get(topic) != value}
            if changed:
                for listener in self._listeners:
                    listener.tell(changed)
        return now


async def _events(watcher: Watcher) -> AsyncIterator[bytes]:
    yield f"retry: {_RETRY_MS}\nevent: hello\ndata: {{}}\n\n".encode()
    async with watcher.listening() as listener:
        while not watcher.closed:
            topics = await listener.next()
            if topics:
                yield f"event: change\ndata: {json.dumps({'topics': sorted(topics)})}\n\n".encode()
            else:
                yield b"event: alive\ndata: {}\n\n"


def stream(watcher: Watcher) -> Response:
    """The endless answer to a page that listens, or 503 when too many do."""
    if watcher.closed or watcher.listeners >= MAX_LISTENERS:
        return problem(
            503, f"{MAX_LISTENERS} pages listen already", "ask for the page itself now and then instead"
        )
    # Named, so that no layer above packs events and holds them back until a block is full.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Content-Encoding": "identity"}
    return StreamingResponse(_events(watcher), media_type="text/event-stream", headers=headers)
