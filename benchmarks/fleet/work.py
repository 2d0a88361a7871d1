"""One ingest worker of the benchmark: the product's own, which says when it is connected."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from driftpost_aggregator.settings import TABLE
from driftpost_aggregator.worker import Worker
from driftpost_sync.systemd import Notifier


def main() -> None:
    """Run until SIGTERM; `PROFILE=file` profiles the ingest thread into a file."""
    logging.basicConfig(level="WARNING")
    exit_event = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: exit_event.set())
    worker = Worker(TABLE.load(Path(sys.argv[1])), exit_event)

    def tell() -> None:
        while not worker.link.status().connected and not exit_event.wait(0.05):
            pass
        print("ready", flush=True)
        while not exit_event.wait(2.0):
            print(worker.link.status(), file=sys.stderr, flush=True)

    threading.Thread(target=tell, name="tell", daemon=True).start()
    if os.environ.get("PROFILE"):
        import cProfile  # noqa: PLC0415  # only for this

        profile = cProfile.Profile()
        threads = []
        real = worker._loop._work

        def work() -> float:
            profile.enable()
            try:
                return real()
            finally:
                profile.disable()

        worker._loop._work = work
        threads.append(profile)
        worker.run(Notifier())
        profile.dump_stats(f"{os.environ['PROFILE']}-{os.getpid()}")
    else:
        worker.run(Notifier())


if __name__ == "__main__":
    main()
