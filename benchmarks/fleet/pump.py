"""Messages of a simulated fleet, pushed into a broker as bytes: `python -m benchmarks.fleet.pump ...`.

All packets are made before the clock starts, and the socket is written in large blocks: the two cores belong
to what is measured. Answers to the devices are read and counted, as devices would; the run ends when every
message is acknowledged by the aggregator.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator

import msgpack

from driftpost_aggregator.simulation.fleet import Message, SimulatedFleet
from driftpost_aggregator.simulation.script import Script
from driftpost_aggregator.simulation.world import paper_bundle

STREAMS, WINDOW_S, SEED = 41, 300.0, 7
FLEET = "bench"
# Messages on their way to the aggregator at a time: what its workers hold, and as much in the broker.
IN_FLIGHT = 4_000
_BLOCK = 100


def played(devices: int, seed: int = SEED) -> SimulatedFleet:
    """The fleet that is played."""
    describe = paper_bundle(STREAMS, window_s=WINDOW_S, seed=SEED)
    now_ms = int(time.time() * 1000) // 300_000 * 300_000
    return SimulatedFleet(
        describe, Script(), devices=devices, fleet=FLEET, seed=seed, start_ms=now_ms - 86_400_000
    )


def messages(fleet: SimulatedFleet, windows: int) -> Iterator[Message]:
    """Windows of all devices, round by round, until there are enough."""
    window = 0
    while fleet.books.windows < windows:
        for message in fleet.round(window):
            yield message
            if fleet.books.windows >= windows:
                return
        window += 1


def packet(kind: int, body: bytes) -> bytes:
    """An MQTT packet: its first byte, the length of the rest, the rest."""
    length, left = b"", len(body)
    while True:
        left, digit = divmod(left, 128)
        length += bytes([digit | (128 if left else 0)])
        if not left:
            return bytes([kind]) + length + body


def text(value: str) -> bytes:
    """A text as MQTT writes it."""
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def published(message: Message, number: int, *, retain: bool = False) -> bytes:
    """A message as a PUBLISH of QoS 1."""
    body = text(message.topic) + struct.pack(">H", number % 65_535 + 1) + message.payload
    return packet(0x33 if retain else 0x32, body)


class Pump:
    """A bare MQTT 3.1.1 client that publishes what was made before and counts what is answered."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.sendall(packet(0x10, text("MQTT") + bytes([4, 2]) + struct.pack(">H", 0) + text("pump")))
        assert self._socket.recv(4)[3] == 0, "the broker refused"
        topic = f"driftpost/v1/{FLEET}/+/down"
        self._socket.sendall(packet(0x82, struct.pack(">H", 1) + text(topic) + b"\0"))
        self._socket.setblocking(False)
        self._read = b""
        self._out = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        self.answered = 0
        self.refused = 0
        self.taken = 0  # by the broker

    def push(self, packets: list[bytes], *, until_answered: bool) -> None:
        """Publish all of them; until every one is answered, or taken by the broker."""
        begin, done = 0, self.answered if until_answered else self.taken
        target = done + len(packets)
        while True:
            done = self.answered if until_answered else self.taken
            if done >= target:
                return
            room = IN_FLIGHT - (begin - (len(packets) - (target - done)))
            if not self._out and begin < len(packets) and room >= _BLOCK:
                self._out = b"".join(packets[begin : begin + _BLOCK])
                begin += _BLOCK
                begin = min(begin, len(packets))
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
            self._selector.modify(self._socket, events)
            for _, ready in self._selector.select(5.0):
                if ready & selectors.EVENT_READ:
                    self._take(self._socket.recv(1 << 18))
                if ready & selectors.EVENT_WRITE and self._out:
                    self._out = self._out[self._socket.send(self._out) :]

    def _take(self, data: bytes) -> None:
        self._read += data
        at = 0
        while at + 2 <= len(self._read):
            size, shift, head = 0, 0, at + 1
            while head < len(self._read):
                size |= (self._read[head] & 127) << shift
                shift += 7
                head += 1
                if not self._read[head - 1] & 128:
                    break
            else:
                break
            if head + size > len(self._read):
                break
            kind = self._read[at] >> 4
            if kind == 4:
                self.taken += 1
            elif kind == 3:
                (topic,) = struct.unpack_from(">H", self._read, head)
                self._answer(self._read[head + 2 + topic : head + size])
            at = head + size
        self._read = self._read[at:]

    def _answer(self, payload: bytes) -> None:
        ack = msgpack.unpackb(payload)
        self.refused += len(ack["r"])
        self.answered += sum(last - first + 1 for first, last in ack["a"])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
        self._selector.close()


def main() -> int:
    """Make everything, say so, wait for a line on standard input, push, and write how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--warm", type=int, default=500, help="windows sent before the clock starts")
    parser.add_argument("--births", type=int, default=100_000, help="devices whose presence is sent")
    given = parser.parse_args()
    fleet = played(given.devices)
    births = [
        published(message, n, retain=not message.seqs)
        for n, message in enumerate(fleet.births())
        if n < given.births or message.seqs
    ]
    described = births.pop()
    packets = [published(message, n) for n, message in enumerate(messages(fleet, given.windows + given.warm))]
    print("made", flush=True)
    pump = Pump(given.host, given.port)
    sys.stdin.readline()
    # The answer to a description tells that the births before it were taken, or nearly.
    pump.push([described], until_answered=True)
    pump.push(births, until_answered=False)
    pump.push(packets[: given.warm], until_answered=True)
    print("warm", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    pump.push(packets[given.warm :], until_answered=True)
    took = time.monotonic() - began
    pump.close()
    books = fleet.books.to_dict()
    print(json.dumps({"seconds": took, "refused": pump.refused, "books": books}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
