"""agent.toml: every setting of the agent, declared once.

The parser, the error messages, `driftpost agent settings`, `driftpost agent init` and the reference page in
`docs/agent.md` all come from this table.
"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

from driftpost_agent.board_settings import BOARD_SETTINGS
from driftpost_agent.budget_settings import BUDGET_SETTINGS
from driftpost_agent.input_settings import INPUT_SETTINGS
from driftpost_models.providers import PREFERRED, PROVIDERS
from driftpost_sync.mqtt_settings import MQTT_SETTINGS
from driftpost_sync.settings import REQUIRED, Setting, SettingsTable

TABLE = SettingsTable(
    "agent.toml",
    (
        Setting("device.id", str, REQUIRED, meaning="name of this device, unique in its fleet"),
        Setting(
            "device.fleet", str, "default", meaning="name of the fleet; the aggregator must use the same"
        ),
        Setting(
            "device.attributes",
            dict[str, str],
            {},
            meaning="what cohorts are formed by, such as site, camera or firmware",
        ),
        Setting(
            "model.bundle", Path, REQUIRED, meaning="the bundle to guard, made by `driftpost bundle build`"
        ),
        Setting("model.fallback", Path, None, meaning="bundle that answers when the policy says fallback"),
        Setting("model.trusted_keys", list[Path], [], meaning="public keys whose bundles may run here"),
        Setting(
            "model.allow_unsigned",
            bool,
            False,
            meaning="run bundles that nobody signed; for trials only, as a changed file goes unnoticed",
        ),
        Setting("model.threads", int, 1, meaning="threads that one inference may use", minimum=1, maximum=64),
        Setting(
            "model.cpus",
            list[int],
            [],
            meaning="numbers of the CPUs that the model's process may run on; empty leaves it to the kernel",
            minimum=0,
            maximum=1023,
        ),
        Setting(
            "model.providers",
            list[str],
            list(PREFERRED),
            meaning="what may compute an ONNX model, the preferred first; what this board's onnxruntime does "
            "not have is passed over, and the CPU is always the last",
            choices=tuple(PROVIDERS),
        ),
        Setting(
            "model.start_seconds",
            float,
            60.0,
            "s",
            "a model that takes longer to load is refused; TensorRT's first start takes minutes",
            minimum=1,
            maximum=3600,
        ),
        Setting(
            "model.deadline_seconds",
            float,
            10.0,
            "s",
            "a model that takes longer is taken for hung: its process is ended and started again",
            minimum=0.05,
            maximum=3600,
        ),
        Setting(
            "model.isolated",
            bool,
            True,
            meaning="run the model in its own process, so that a crash does not take the agent along",
        ),
        Setting(
            "model.memory_mb",
            float,
            None,
            "MiB",
            "a model whose process has more resident is ended and started again; left out, it may grow",
            minimum=16,
            maximum=1_000_000,
        ),
        Setting(
            "model.crash_limit",
            int,
            10,
            meaning="crashes without a stable minute between them that make a crash loop",
            minimum=1,
            maximum=1_000_000,
        ),
        Setting(
            "model.on_crash_loop",
            str,
            "retry",
            meaning="retry starts the model again with back-off, and the policy decides what `model_failed` "
            "means until it answers; stop answers every request with 503 and reports failing health",
            choices=("retry", "stop"),
        ),
        Setting("server.host", str, "127.0.0.1", meaning="address the inference server listens on"),
        Setting(
            "server.port",
            int,
            8600,
            meaning="port of the inference server; 0 picks a free one",
            minimum=0,
            maximum=65535,
        ),
        Setting(
            "server.max_request_mb",
            float,
            32.0,
            "MiB",
            "a larger request is refused before it is read",
            minimum=0.01,
            maximum=1024,
        ),
        Setting(
            "server.max_connections",
            int,
            32,
            meaning="connections at a time; one more is answered with 503",
            minimum=1,
            maximum=1024,
        ),
        *INPUT_SETTINGS,
        Setting(
            "store.path",
            Path,
            "state/agent.db",
            meaning="the database; its folder also holds installed bundles",
        ),
        Setting(
            "store.synchronous",
            str,
            "full",
            meaning="full survives a power cut with every closed window; normal saves an fsync a window",
            choices=("full", "normal"),
        ),
        Setting(
            "store.outbox_mb",
            float,
            16.0,
            "MiB",
            "messages that wait for the aggregator; beyond it, waiting windows merge into coarser ones",
            minimum=0.25,
            maximum=65536,
        ),
        Setting(
            "store.reserve_mb",
            float,
            4.0,
            "MiB",
            "room on the disk that is held back for when it is full; 0 for none",
            minimum=0,
            maximum=65536,
        ),
        Setting(
            "store.history_mb",
            float,
            64.0,
            "MiB",
            "acknowledged windows are kept for local reading up to this size, oldest removed first",
            minimum=0,
            maximum=65536,
        ),
        Setting(
            "windows.seconds",
            float,
            None,
            "s",
            "length of a window; left out, the bundle's policy decides",
            minimum=0.1,
            maximum=86400,
        ),
        Setting(
            "windows.rows",
            int,
            None,
            meaning="close a window early when it holds this many rows",
            minimum=16,
            maximum=100_000_000,
        ),
        Setting(
            "windows.flush_seconds",
            float,
            1.0,
            "s",
            "rows are sketched at least this often",
            minimum=0.05,
            maximum=600,
        ),
        Setting(
            "windows.passes",
            str,
            "auto",
            meaning="who sketches a full block: the caller that filled it, a thread beside it, or auto: the "
            "thread if the model takes 50 us or more",
            choices=("auto", "caller", "thread"),
        ),
        Setting(
            "sync.enabled",
            bool,
            True,
            meaning="send windows and findings to an aggregator; false keeps everything on the device",
        ),
        Setting(
            "sync.ledger_seconds",
            float,
            21600.0,
            "s",
            "how often the account of all windows is sent",
            minimum=1,
            maximum=86400,
        ),
        *BUDGET_SETTINGS,
        *BOARD_SETTINGS,
        *MQTT_SETTINGS,
        Setting(
            "policy.on_bad_verdict",
            str,
            None,
            meaning="overrides the bundle's policy for this device",
            choices=("flag", "abstain", "fallback"),
        ),
        Setting(
            "policy.min_confidence",
            float,
            None,
            meaning="overrides the bundle's least confidence for this device",
            minimum=0,
            maximum=1,
        ),
        Setting(
            "policy.budget",
            str,
            None,
            meaning="overrides the bundle's false-alarm budget, such as `1 per device-year`",
        ),
        Setting(
            "privacy.epsilon_per_day",
            float,
            None,
            meaning="windows leave with noise that bounds what the data of any 24 hours tells of a subject; "
            "left out, they leave as they are",
            minimum=0.001,
            maximum=1000,
        ),
        Setting(
            "privacy.delta",
            float,
            1e-6,
            meaning="probability with which the bound may fail; far below one over the number of subjects",
            minimum=1e-15,
            maximum=0.01,
        ),
        Setting(
            "privacy.epsilon_total",
            float,
            None,
            meaning="bound over the device's whole life, after which windows stay on it; left out, none",
            minimum=0.001,
            maximum=1_000_000,
        ),
        Setting(
            "privacy.release_seconds",
            float,
            3600.0,
            "s",
            "windows are merged until they cover this much, then released once; longer means less noise",
            minimum=1,
            maximum=2_592_000,
        ),
        Setting(
            "privacy.rows_per_subject",
            int,
            1,
            meaning="rows of a release that one subject may account for; the noise grows with it",
            minimum=1,
            maximum=1_000_000,
        ),
        Setting(
            "privacy.send_findings",
            bool,
            False,
            meaning="send findings about rows and counts of labels although the budget does not cover them; "
            "false keeps both here",
        ),
        Setting(
            "clock.trust_wall",
            bool,
            False,
            meaning="take the wall clock as good without asking the kernel whether it is synchronised",
        ),
        Setting(
            "log.level",
            str,
            "info",
            meaning="least severe log lines to write",
            choices=("debug", "info", "warning", "error"),
        ),
    ),
)


def starter_file(*, device: str | None, bundle: Path, key: Path | None, broker: str) -> str:
    """A small agent.toml with what everybody sets, and a word on each.

    Args:
        device: name of the device; the host's if None.
        bundle: the bundle to guard.
        key: public key to trust; None allows unsigned bundles, and says so in the file.
        broker: host of the MQTT broker.
    """
    trust = (
        f"trusted_keys = [{_quoted(key)}]"
        if key is not None
        else "# Name the public key of whoever builds your bundles here, and remove the line after it.\n"
        "trusted_keys = []\nallow_unsigned = true"
    )
    return f"""\
# driftpost agent. `driftpost agent settings` lists every setting with its default.

[device]
id = {_quoted(device or _host_name())}
fleet = "default"
# What cohorts are formed by when something drifts.
attributes = {{ site = "here" }}

[model]
bundle = {_quoted(bundle)}
{trust}

[server]
# Open Inference Protocol v2, a status page at /status and Prometheus metrics at /metrics.
port = 8600

[store]
path = "state/agent.db"

[mqtt]
host = {_quoted(broker)}
"""


def _quoted(value: object) -> str:
    # JSON's strings are TOML's basic strings.
    return json.dumps(str(value), ensure_ascii=False)


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:63]
    return name or "device-1"
