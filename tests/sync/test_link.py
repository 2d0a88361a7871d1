from __future__ import annotations

from mosquitto import needs_mosquitto
from wire import wait_until

pytestmark = needs_mosquitto


def test_what_is_recorded_arrives_once_and_leaves_the_outbox(own_world):
    aggregator = own_world.aggregator()
    device = own_world.device()
    seqs = device.record(100)
    wait_until(lambda: len(aggregator.committed) == 100, "all committed")
    wait_until(lambda: device.pending() == 0, "all acknowledged")
    with device.outbox() as outbox:
        ledger = outbox.ledger()
    assert ledger.balanced
    assert ledger.acked.windows == len(seqs) == 100
    assert device.link.status().protocol == "5"
    assert aggregator.presence["device-1"].online
