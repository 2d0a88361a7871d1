"""A broker that does what a test tells it: refuses with any reason code, forgets, hangs up, talks nonsense.

It speaks just enough MQTT 5 for one device, and is the aggregator as well: what it delivers is committed in
memory and acknowledged. Real brokers are in other tests; none of them can be told to misbehave like this.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass

from driftpost_sync.messages import Ack, Envelope, ranges_of

_CONNECT, _PUBLISH, _SUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 8, 12, 14


@dataclass
class Script:
    """How the broker behaves; may be changed at any time.

    Attributes:
        connack: reason code for a CONNECT.
        puback: reason code for a PUBLISH with messages.
        disconnect: reason code with which the connection is ended when a message comes, 0 for not at all.
        garbage: sent as it is after the CONNACK.
        deliver: whether messages reach the aggregator.
    """

    connack: int = 0
    puback: int = 0
    disconnect: int = 0
    garbage: bytes = b""
    deliver: bool = True


class ScriptedBroker:
    """Listens on loopback; `committed` is what the aggregator has."""

    def __init__(self) -> None:
        self.script = Script()
        self.committed: dict[tuple[int, int], bytes] = {}
        self.copies = 0
        self.connects = 0
        self.publishes = 0
        self.host = "127.0.0.1"
        self._server = socket.create_server((self.host, 0))
        self._server.settimeout(0.05)
        self.port = int(self._server.getsockname()[1])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-broker")
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join(5)
        self._server.close()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(0.05)
                with contextlib.suppress(OSError, ConnectionError):
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        """One connection, until it ends; a device has only one."""
        while not self._over.is_set():
            packet = self._packet(client)
            if packet is None:
                continue
            kind, flags, body = packet
            if kind == _CONNECT:
                self.connects += 1
                code = self.script.connack
                client.sendall(bytes((0x20, 3, 0, code, 0)))
                if code:
                    return
                if self.script.garbage:
                    client.sendall(self.script.garbage)
            elif kind == _SUBSCRIBE:
                # Three filters; their properties are empty.
                client.sendall(bytes((0x90, 6)) + body[:2] + bytes((0, 1, 1, 1)))
            elif kind == _PUBLISH:
                if not self._published(client, flags, body):
                    return
            elif kind == _PINGREQ:
                client.sendall(bytes((0xD0, 0)))
            elif kind == _DISCONNECT:
                return

    def _published(self, client: socket.socket, flags: int, body: bytes) -> bool:
        (length,) = struct.unpack_from(">H", body)
        topic, at = body[2 : 2 + length].decode(), 2 + length
        mid = body[at : at + 2]
        payload = body[at + 3 + body[at + 2] :]
        if not topic.endswith("/up"):
            client.sendall(bytes((0x40, 4)) + mid + bytes((0, 0)))
            return True
        self.publishes += 1
        if self.script.disconnect:
            client.sendall(bytes((0xE0, 2, self.script.disconnect, 0)))
            return False
        code = self.script.puback
        client.sendall(bytes((0x40, 4)) + mid + bytes((code, 0)))
        if code < 0x80 and code != 0x10 and self.script.deliver:
            envelope = Envelope.from_bytes(payload)
            for item in envelope.items:
                key = (envelope.incarnation, item.seq)
                self.copies += key in self.committed
                self.committed[key] = item.body
            ack = Ack(envelope.incarnation, ranges_of([item.seq for item in envelope.items]))
            self._send(client, topic.removesuffix("up") + "down", ack.to_bytes())
        return True

    @staticmethod
    def _send(client: socket.socket, topic: str, payload: bytes) -> None:
        name = topic.encode()
        body = struct.pack(">H", len(name)) + name + bytes((0,)) + payload  # quality of service 0
        size, length = len(body), b""
        while True:
            size, digit = divmod(size, 128)
            length += bytes((digit | (0x80 if size else 0),))
            if not size:
                break
        client.sendall(bytes((0x30,)) + length + body)

    def _packet(self, client: socket.socket) -> tuple[int, int, bytes] | None:
        try:
            first = client.recv(1)
        except TimeoutError:
            return None
        if not first:
            raise ConnectionError
        size = shift = 0
        while True:
            (digit,) = self._exactly(client, 1)
            size |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                break
        return first[0] >> 4, first[0] & 0x0F, self._exactly(client, size)

    def _exactly(self, client: socket.socket, size: int) -> bytes:
        read = b""
        while len(read) < size:
            with contextlib.suppress(TimeoutError):
                part = client.recv(size - len(read))
                if not part:
                    raise ConnectionError
                read += part
            if self._over.is_set():
                raise ConnectionError
        return read
