"""Asks a broker whether it would take a client: name, TCP, TLS, and MQTT, each by itself, for a diagnosis."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from driftpost_sync.clock import Clock
from driftpost_sync.connection import explain, read_password, tls_context
from driftpost_sync.mqtt_settings import MqttSettings


@dataclass(frozen=True)
class Reach:
    """How far one gets towards a broker.

    Attributes:
        problem: why not further, "" if nothing is in the way.
        step: where that is: "name", "tcp", "tls" or "mqtt".
        tls: version of TLS, "" without it.
        certificate: of the broker, DER; empty without TLS.
    """

    problem: str = ""
    step: str = ""
    tls: str = ""
    certificate: bytes = b""


def reach(settings: MqttSettings, clock: Clock) -> Reach:
    """Resolve, connect, and shake hands; nothing of MQTT is spoken, so no session is disturbed.

    Raises:
        LinkError: a file of the settings can't be read.
    """
    context = tls_context(settings) if settings.uses_tls else None
    step = "name"
    try:
        socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        step = "tcp"
        with socket.create_connection((settings.host, settings.port), settings.connect_timeout_s) as plain:
            if context is None:
                return Reach()
            step = "tls"
            with context.wrap_socket(plain, server_hostname=settings.host) as secure:
                # With TLS 1.3 a broker refuses a client's certificate only after the handshake.
                secure.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    secure.recv(1)
                return Reach(
                    tls=secure.version() or "", certificate=secure.getpeercert(binary_form=True) or b""
                )
    except (OSError, ssl.SSLError) as error:
        return Reach(explain(error, settings, clock), step)


def introduce(settings: MqttSettings, client_id: str, clock: Clock) -> Reach:
    """Log in with MQTT and say goodbye.

    A broker that names clients after their certificates ends a running session of the same device for it: ask
    only where no agent runs.

    Raises:
        LinkError: a file of the settings can't be read.
    """
    answers: list[ReasonCode] = []
    ended: list[ReasonCode] = []
    version = MQTTProtocolVersion.MQTTv311 if settings.protocol == "3.1.1" else MQTTProtocolVersion.MQTTv5
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=True if version is MQTTProtocolVersion.MQTTv311 else None,
        protocol=version,
        reconnect_on_failure=False,
    )
    client.connect_timeout = settings.connect_timeout_s
    if settings.username is not None:
        client.username_pw_set(settings.username, read_password(settings.password_file))
    context = tls_context(settings) if settings.uses_tls else None
    if context is not None:
        client.tls_set_context(context)

    def connected(_: Client, __: Any, ___: ConnectFlags, code: ReasonCode, ____: Properties | None) -> None:
        answers.append(code)

    def disconnected(
        _: Client, __: Any, ___: DisconnectFlags, code: ReasonCode, ____: Properties | None
    ) -> None:
        ended.append(code)

    client.on_connect = connected
    client.on_disconnect = disconnected
    try:
        client.connect(settings.host, settings.port, 10)
        deadline = time.monotonic() + settings.connect_timeout_s
        while not answers and not ended and time.monotonic() < deadline:
            if client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
    except OSError as error:
        if context is not None:
            context.close_last()
        return Reach(explain(error, settings, clock), "mqtt")
    finally:
        client.disconnect()
    where = f"{settings.host}:{settings.port}"
    if answers:
        refusal = answers[0]
        return Reach() if not refusal.is_failure else Reach(f"{where} refuses: {refusal}", "mqtt")
    if ended:
        return Reach(f"{where} ends the connection: {ended[0]}", "mqtt")
    return Reach(f"{where} does not answer as an MQTT broker would", "mqtt")
