"""The `[probes]` part of a configuration file: what the owner knows better than the automatic choice.

Every key is described in docs/probes.md, with the table that this module reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from driftpost_models.errors import ConfigError
from driftpost_models.probes.classification import SCORES
from driftpost_models.probes.image import LAYOUTS
from driftpost_models.runtime import TensorSpec
from driftpost_models.strict_table import StrictTable, nearest

INPUT_KINDS = ("image", "columns", "signal", "spectrogram", "embedding", "summary", "none")
OUTPUT_KINDS = ("classification", "regression", "embedding", "reconstruction", "image", "summary", "none")
EXTRA_KINDS = ("codes", "limits")

MAX_CHANNELS = 1024


@dataclass(frozen=True)
class TensorWishes:
    """What the owner says of one tensor; None and empty where nothing is said."""

    as_: str | None = None
    layout: str | None = None
    low: float | None = None
    high: float | None = None
    features: int | None = None
    channels: int | None = None
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    scores: str | None = None
    classes: tuple[str, ...] = ()
    of: str | None = None


@dataclass(frozen=True)
class ProbesConfig:
    """The parsed `[probes]` table.

    Attributes:
        inputs: wishes by the name of the input.
        outputs: wishes by the name of the output.
        disable: kinds of extra probes that are left out.
        untracked: streams that detectors leave alone.
        units: units by stream name.
    """

    inputs: Mapping[str, TensorWishes] = field(default_factory=dict)
    outputs: Mapping[str, TensorWishes] = field(default_factory=dict)
    disable: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    def input(self, name: str) -> TensorWishes:
        """Wishes for one input."""
        return self.inputs.get(name, TensorWishes())

    def output(self, name: str) -> TensorWishes:
        """Wishes for one output."""
        return self.outputs.get(name, TensorWishes())


def parse_probes(
    table: StrictTable, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ProbesConfig:
    """Read the table against a model's signature.

    Raises:
        ConfigError: an unknown key, tensor or kind, or a wrong value.
    """
    disable = tuple(table.texts("disable") or ())
    for kind in disable:
        if kind not in EXTRA_KINDS:
            raise ConfigError(
                table.path("disable"),
                f"{kind!r} is not one of {', '.join(EXTRA_KINDS)}{nearest(kind, EXTRA_KINDS)}; "
                'leave a tensor out with `as = "none"`, a stream with `tracked = false`',
            )
    untracked, units = [], {}
    streams = table.table("streams")
    for name in streams.names() if streams is not None else ():
        assert streams is not None
        one = streams.table(name)
        assert one is not None
        if one.flag("tracked", True) is False:
            untracked.append(name)
        unit = one.text("unit")
        if unit is not None:
            units[name] = unit
        one.done()
    config = ProbesConfig(
        _side(table.table("inputs"), inputs, INPUT_KINDS),
        _side(table.table("outputs"), outputs, OUTPUT_KINDS),
        disable,
        tuple(untracked),
        units,
    )
    table.done()
    return config


def _side(
    table: StrictTable | None, specs: Sequence[TensorSpec], kinds: Sequence[str]
) -> dict[str, TensorWishes]:
    found: dict[str, TensorWishes] = {}
    if table is None:
        return found
    names = [spec.name for spec in specs]
    for key in table.names():
        name = key
        if key not in names:
            if not key.isdigit() or int(key) >= len(names):
                raise ConfigError(
                    table.path(key),
                    f"the model has no such tensor{nearest(key, names)} (it has: {', '.join(names)})",
                )
            name = names[int(key)]
        one = table.table(key)
        assert one is not None
        found[name] = _wishes(one, kinds)
        one.done()
    return found


def _wishes(table: StrictTable, kinds: Sequence[str]) -> TensorWishes:
    features = table.number("features", low=1, high=1 << 20)
    channels = table.number("channels", low=1, high=MAX_CHANNELS)
    return TensorWishes(
        as_=table.text("as", choices=kinds),
        layout=table.text("layout", choices=LAYOUTS),
        low=table.number("low"),
        high=table.number("high"),
        features=None if features is None else int(features),
        channels=None if channels is None else int(channels),
        names=tuple(table.texts("names") or ()),
        units=tuple(table.texts("units") or ()),
        categorical=tuple(table.texts("categorical") or ()),
        scores=table.text("scores", choices=SCORES),
        classes=tuple(table.texts("classes") or ()),
        of=table.text("of"),
    )
