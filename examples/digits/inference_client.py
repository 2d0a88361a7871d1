"""A camera's side of the local inference server: Open Inference Protocol v2, binary, kept alive."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camera import SIDE, to_model_input

TIMEOUT_S = 15.0  # longer than the agent's own deadline for its model
HEADER_LENGTH = "Inference-Header-Content-Length"


class InferenceRefused(Exception):
    """The server did not answer an inference with 200.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"inference answered {status}: {text}")
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What came back for one frame: the digit read (None if the guard abstained) and the guard's verdict."""

    digit: int | None
    verdict: str


class InferenceClient:
    """One connection to one agent.

    Args:
        port: Loopback port of the agent's inference server.
        model: Name of the model.
    """

    def __init__(self, port: int, model: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._path = f"/v2/models/{model}"
        self._head = b""

    def connect(self) -> None:
        """Connect, and learn from the server how the model wants its frames.

        Raises:
            InferenceRefused: The server has no such model.
            OSError: There is no server.
        """
        self._connection.connect()
        # A frame is smaller than a segment: without this, each waits for the acknowledgement of the last.
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.request("GET", self._path)
        metadata = self._read()[0]
        wanted = metadata["inputs"][0]
        if wanted["datatype"] != "INT8":
            raise InferenceRefused(200, f"the model takes {wanted['datatype']}, this camera sends INT8")
        shape = [1 if size == -1 else size for size in wanted["shape"]]
        self._head = json.dumps(
            {
                "inputs": [
                    {
                        "name": wanted["name"],
                        "shape": shape,
                        "datatype": "INT8",
                        "parameters": {"binary_data_size": SIDE * SIDE},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()

    def infer(self, pixels: NDArray[np.uint8]) -> Answer:
        """Have one frame ``uint8[16, 16]`` read.

        Raises:
            InferenceRefused: The server said no.
            OSError: The connection broke; whether the frame counted is unknown.
        """
        body = self._head + to_model_input(pixels[np.newaxis]).tobytes()
        self._connection.request("POST", f"{self._path}/infer", body, {HEADER_LENGTH: str(len(self._head))})
        document, tensors = self._read()
        outputs = document["outputs"]
        verdict = str(document.get("parameters", {}).get("verdict", ""))
        if not outputs:
            return Answer(None, verdict)
        codes = np.frombuffer(tensors, np.int8, count=outputs[0]["parameters"]["binary_data_size"])
        return Answer(int(codes.argmax()), verdict)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _read(self) -> tuple[dict[str, Any], bytes]:
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise InferenceRefused(response.status, body[:500].decode(errors="replace"))
        length = int(response.headers.get(HEADER_LENGTH, len(body)))
        document: dict[str, Any] = json.loads(body[:length])
        return document, body[length:]
