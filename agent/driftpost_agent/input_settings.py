"""The `[folder]` and `[local_mqtt]` sections: ways in beside the local server."""

from __future__ import annotations

from pathlib import Path

from driftpost_sync.settings import Setting

INPUT_SETTINGS: tuple[Setting, ...] = (
    Setting("folder.path", Path, None, meaning="folder whose files are inputs; left out, none is watched"),
    Setting(
        "folder.poll_seconds", float, 0.5, "s", "how often it is looked into", minimum=0.05, maximum=3600
    ),
    Setting(
        "folder.settle_seconds",
        float,
        1.0,
        "s",
        "a file is taken once it has stayed as it is for this long; 0 where all are renamed into place",
        minimum=0,
        maximum=3600,
    ),
    Setting(
        "folder.max_file_mb",
        float,
        64.0,
        "MiB",
        "a larger file, or one that unpacks to more, is moved to failed/ unread",
        minimum=0.01,
        maximum=4096,
    ),
    Setting(
        "folder.keep_mb",
        float,
        256.0,
        "MiB",
        "done/ and failed/ each keep this much, the oldest go first; 0 removes a file once it is done",
        minimum=0,
        maximum=1_048_576,
    ),
    Setting(
        "folder.answers",
        bool,
        True,
        meaning="write each file's answer beside it in done/, as NAME.json",
    ),
    Setting(
        "local_mqtt.host",
        str,
        None,
        meaning="broker from which requests are taken, not the one of [mqtt]; left out, none is asked",
    ),
    Setting("local_mqtt.port", int, 1883, meaning="its port", minimum=1, maximum=65535),
    Setting(
        "local_mqtt.topic",
        str,
        "driftpost/infer",
        meaning="topic of requests, or a filter with + and #",
    ),
    Setting(
        "local_mqtt.answer_topic",
        str,
        "driftpost/answer",
        meaning="topic of answers to requests that name none themselves",
    ),
    Setting("local_mqtt.username", str, None, meaning="name to log in with"),
    Setting("local_mqtt.password_file", Path, None, meaning="file whose first line is the password"),
    Setting(
        "local_mqtt.ca",
        Path,
        None,
        meaning="certificates (PEM) that the broker's must be signed by; turns TLS on",
    ),
    Setting("local_mqtt.cert", Path, None, meaning="this client's certificate (PEM), with local_mqtt.key"),
    Setting("local_mqtt.key", Path, None, meaning="private key (PEM) of local_mqtt.cert"),
    Setting(
        "local_mqtt.max_message_kb",
        float,
        1024.0,
        "KiB",
        "a larger request is refused; an MQTT 5 broker is told not to send it",
        minimum=1,
        maximum=262_144,
    ),
)
