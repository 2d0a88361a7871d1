"""One ingest worker of the benchmark: the product's own, which says when it is connected."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

from driftpost_aggregator.settings import load
from driftpost_aggregator.worker import Worker
from driftpost_sync.systemd import Notifier


def main() -> None:
    """Run until SIGTERM."""
    logging.basicConfig(level="WARNING")
    exit_event = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: exit_event.set())
    worker = Worker(load(Path(sys.argv[1])), exit_event)

    def tell() -> None:
        while not worker.link.status().connected and not exit_event.wait(0.05):
            pass
        print("ready", flush=True)

    threading.Thread(target=tell, name="tell", daemon=True).start()
    worker.run(Notifier())


if __name__ == "__main__":
    main()
