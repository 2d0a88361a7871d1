"""Choosing probes from a model's signature, a sample of the reference, and the owner's wishes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ConfigError
from driftpost_models.probes.block import Block
from driftpost_models.probes.categorical_columns import CategoricalColumns
from driftpost_models.probes.classification import Classification
from driftpost_models.probes.codes import Codes
from driftpost_models.probes.config import ProbesConfig, TensorWishes
from driftpost_models.probes.embedding import Embedding
from driftpost_models.probes.guesses import (
    confident,
    few_whole_numbers,
    image_layout,
    image_scale,
    score_kind,
)
from driftpost_models.probes.image import Image
from driftpost_models.probes.latency import Latency
from driftpost_models.probes.limits import Limits
from driftpost_models.probes.numeric_columns import NumericColumns
from driftpost_models.probes.probe import Probe
from driftpost_models.probes.probe_set import ProbeSet
from driftpost_models.probes.reconstruction import Reconstruction
from driftpost_models.probes.regression import Regression
from driftpost_models.probes.signal import Signal, bands_for
from driftpost_models.probes.spectrogram import Spectrogram
from driftpost_models.probes.summary import Summary
from driftpost_models.probes.verdict import Verdict
from driftpost_models.runtime import Array, TensorSpec

MAX_COLUMNS = 64
"""Elements of a row that are watched one by one. 128 gas-sensor features as columns are asked for by name."""

MAX_REGRESSION = 16
"""Elements of an answer that are taken for numbers with a meaning of their own."""

_DIRECTIONS = 4
_SEED = 20_11


@dataclass
class Choice:
    """What was chosen, and why.

    Attributes:
        probes: the probe set.
        notes: one sentence for each guess that the owner may want to correct.
    """

    probes: ProbeSet
    notes: list[str] = field(default_factory=list)


def choose_probes(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sample: Block,
    config: ProbesConfig | None = None,
    *,
    classes: Sequence[str] = (),
    labelled: bool = False,
    columns: Sequence[str] = (),
) -> Choice:
    """Choose probes.

    Args:
        inputs: what the model takes.
        outputs: what it returns.
        sample: some hundred rows of the reference, spread over it, with the model's answers.
        config: the owner's wishes.
        classes: class names, where they were given.
        labelled: whether the reference has class labels: then scores are a classification.
        columns: names of the columns of the reference, where its file has them.

    Raises:
        ConfigError: a wish does not fit the tensor.
    """
    config = config or ProbesConfig()
    choosing = _Choosing(
        tuple(inputs),
        tuple(outputs),
        sample,
        config,
        classes=tuple(classes),
        labelled=labelled,
        columns=tuple(columns),
    )
    probes = choosing.all()
    return Choice(ProbeSet(probes, config.untracked, config.units), choosing.notes)


class _Choosing:
    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sample: Block,
        config: ProbesConfig,
        *,
        classes: tuple[str, ...],
        labelled: bool,
        columns: tuple[str, ...],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.sample = sample
        self.config = config
        self.classes = classes
        self.labelled = labelled
        self.columns = columns
        self.notes: list[str] = []
        self.names: set[str] = set()

    def all(self) -> list[Probe]:
        probes: list[Probe] = []
        for spec in self.inputs:
            probes += self._named(spec, self._input, self.config.input(spec.name))
        for spec in self.outputs:
            probes += self._named(spec, self._output, self.config.output(spec.name))
        return [*probes, Latency(), Verdict()]

    def _named(
        self,
        spec: TensorSpec,
        make: Callable[[TensorSpec, TensorWishes, Array, str], list[Probe]],
        wishes: TensorWishes,
    ) -> list[Probe]:
        """Probes of one tensor, under the tensor's name where short names are taken already."""
        raw = self.sample.inputs.get(spec.name)
        if raw is None:
            raw = self.sample.outputs.get(spec.name)
        if wishes.as_ == "none" or raw is None or raw.size == 0:
            return []
        before = len(self.notes)
        probes = make(spec, wishes, raw, "")
        if any(draft.name in self.names for probe in probes for draft in probe.streams()):
            del self.notes[before:]
            probes = make(spec, wishes, raw, f"{spec.name}.")
        self.names.update(draft.name for probe in probes for draft in probe.streams())
        return probes

    # --- inputs

    def _input(self, spec: TensorSpec, wishes: TensorWishes, raw: Array, prefix: str) -> list[Probe]:
        kind = wishes.as_ or self._guess_input(spec, raw)
        probes: list[Probe]
        if kind == "columns":
            probes = self._columns(spec, wishes, raw, prefix)
        elif kind == "image":
            probes = [self._image(spec, wishes, raw, prefix, "input")]
        elif kind == "signal":
            probes = [self._signal(spec, wishes, raw, prefix)]
        elif kind == "spectrogram":
            probes = [self._spectrogram(spec, wishes, raw, prefix)]
        elif kind == "embedding":
            probes = [_embedding(spec, "input", prefix, raw)]
        else:
            probes = [Summary(spec, "input", prefix, self._state_of(spec) is None)]
        return [*probes, *self._extras(spec, "input", raw)]

    def _guess_input(self, spec: TensorSpec, raw: Array) -> str:
        shape = raw.shape[1:]
        size = raw[0].size
        if self._state_of(spec) is not None:
            return "summary"
        if image_layout(shape) is not None:
            return "image"
        if size <= MAX_COLUMNS or (self.columns and len(self.columns) == size):
            return "columns"
        dims = [d for d in shape if d != 1]
        if len(dims) == 1:
            self.notes.append(
                f"input {spec.name!r} has {size} values in a row and is taken for a signal; if they are "
                f'columns, or features over time, say so: [probes.inputs."{spec.name}"] as = "columns" or '
                '"spectrogram"'
            )
            return "signal"
        if len(dims) == 2:
            return "spectrogram"
        return "summary"

    def _state_of(self, spec: TensorSpec) -> TensorSpec | None:
        """The output that is fed back as this input, judged by shape, in models of several inputs."""
        if len(self.inputs) < 2 or "state" not in spec.name.lower():
            return None
        raw = self.sample.inputs.get(spec.name)
        for output in self.outputs:
            answer = self.sample.outputs.get(output.name)
            if raw is not None and answer is not None and raw.shape == answer.shape:
                return output
        return None

    def _columns(self, spec: TensorSpec, wishes: TensorWishes, raw: Array, prefix: str) -> list[Probe]:
        size = raw[0].size
        names = wishes.names or (self.columns if len(self.columns) == size else ())
        if not names:
            default = "x" if len(self.inputs) == 1 else f"{spec.name}."
            names = tuple(f"{default}{k}" for k in range(size)) if size > 1 else (default.rstrip(".") or "x",)
        if len(names) != size:
            raise ConfigError(f"probes.inputs.{spec.name}.names", f"{len(names)} names for {size} columns")
        units = wishes.units or ("",) * size
        if len(units) != size:
            raise ConfigError(f"probes.inputs.{spec.name}.units", f"{len(units)} units for {size} columns")
        for name in wishes.categorical:
            if name not in names:
                raise ConfigError(f"probes.inputs.{spec.name}.categorical", f"there is no column {name!r}")
        real = spec.real(raw.reshape(len(raw), -1))
        chosen = set(wishes.categorical)
        if not chosen and not spec.quantized:
            chosen = {name for k, name in enumerate(names) if few_whole_numbers(real[:, k])}
            if chosen:
                self.notes.append(
                    f"columns taken for categories: {', '.join(n for n in names if n in chosen)}"
                )
        numeric = [k for k, name in enumerate(names) if name not in chosen]
        categorical = [k for k, name in enumerate(names) if name in chosen]
        probes: list[Probe] = []
        full = [prefix + name if prefix and not name.startswith(prefix) else name for name in names]
        if numeric:
            probes.append(
                NumericColumns(
                    spec,
                    "input",
                    tuple(numeric),
                    tuple(full[k] for k in numeric),
                    tuple(units[k] for k in numeric),
                )
            )
        if categorical:
            probes.append(
                CategoricalColumns(spec, "input", tuple(categorical), tuple(full[k] for k in categorical))
            )
        return probes

    def _image(self, spec: TensorSpec, wishes: TensorWishes, raw: Array, prefix: str, side: str) -> Image:
        layout = wishes.layout or image_layout(raw.shape[1:])
        if layout is None:
            raise ConfigError(
                f"probes.{side}s.{spec.name}",
                f"rows of shape {list(raw.shape[1:])} are no image: give its layout",
            )
        low, high = self._image_scale(spec, raw)
        low = wishes.low if wishes.low is not None else low
        high = wishes.high if wishes.high is not None else high
        try:
            return Image(spec, side, prefix, layout, low, high)
        except ValueError as error:
            raise ConfigError(f"probes.{side}s.{spec.name}", str(error)) from error

    def _image_scale(self, spec: TensorSpec, raw: Array) -> tuple[float, float]:
        """Raw values of black and white."""
        if spec.dtype.kind in "iu" and spec.dtype.itemsize == 1:
            info = np.iinfo(spec.dtype.str)
            return float(info.min), float(info.max)
        low, high, known = image_scale(raw)
        seen = raw[np.isfinite(raw)] if raw.dtype.kind == "f" else raw
        went = f"images of {spec.name!r} go from {seen.min():.4g} to {seen.max():.4g}" if seen.size else ""
        if known and went:
            self.notes.append(f"{went}: full scale taken as {low:g} to {high:g}")
        elif went:
            self.notes.append(
                f"{went}, which is no usual scale: these are taken as black and white; "
                f'set [probes.inputs."{spec.name}"] low and high'
            )
        return low, high

    def _signal(self, spec: TensorSpec, wishes: TensorWishes, raw: Array, prefix: str) -> Signal:
        channels = wishes.channels or (raw.shape[-1] if raw.ndim == 3 and 1 < raw.shape[-1] <= 8 else 1)
        size = raw[0].size
        if size % channels:
            raise ConfigError(
                f"probes.inputs.{spec.name}.channels", f"{size} values do not divide by {channels}"
            )
        if spec.dtype.kind in "iu":
            info = np.iinfo(spec.dtype.str)
            low, high = float(info.min), float(info.max)
        else:
            finite = raw[np.isfinite(raw)]
            bound = float(np.abs(finite).max()) if finite.size else 1.0
            # Floats are clipped at full scale 1 by convention, else only beyond what the reference showed.
            bound = 1.0 if 0.25 <= bound <= 1.0 else math.nextafter(bound, math.inf)
            low, high = -bound, bound
        return Signal(
            spec,
            "input",
            prefix,
            channels,
            bands_for(size // channels),
            wishes.low if wishes.low is not None else low,
            wishes.high if wishes.high is not None else high,
        )

    def _spectrogram(self, spec: TensorSpec, wishes: TensorWishes, raw: Array, prefix: str) -> Spectrogram:
        dims = [d for d in raw.shape[1:] if d != 1]
        features = wishes.features or (dims[-1] if len(dims) >= 2 else 0)
        size = raw[0].size
        if not features or size % features:
            raise ConfigError(
                f"probes.inputs.{spec.name}.features",
                f"give how many values one frame has; they must divide {size}",
            )
        return Spectrogram(spec, "input", prefix, features)

    # --- outputs

    def _output(self, spec: TensorSpec, wishes: TensorWishes, raw: Array, prefix: str) -> list[Probe]:
        real = spec.real(raw.reshape(len(raw), -1)).astype(np.float64)
        kind = wishes.as_ or self._guess_output(spec, wishes, raw, real)
        size = real.shape[1]
        if kind == "classification":
            return self._classification(spec, wishes, real, prefix)
        probes: list[Probe]
        if kind == "regression":
            names = (
                wishes.names or tuple(f"y{k}" for k in range(size)) if size > 1 else wishes.names or ("y",)
            )
            units = wishes.units or ("",) * size
            if len(names) != size or len(units) != size:
                raise ConfigError(f"probes.outputs.{spec.name}", f"the answer has {size} numbers to name")
            probes = [Regression(spec, tuple(prefix + n for n in names), tuple(units))]
        elif kind == "reconstruction":
            original = self._original(spec, wishes, raw)
            if original is None:
                raise ConfigError(f"probes.outputs.{spec.name}.of", "no input has the shape of this output")
            probes = [Reconstruction(original, spec, prefix)]
        elif kind == "embedding":
            probes = [_embedding(spec, "output", prefix, raw)]
        elif kind == "image":
            probes = [self._image(spec, wishes, raw, prefix or f"{spec.name}.", "output")]
        else:
            probes = [Summary(spec, "output", prefix or f"{spec.name}.", not self._is_state(spec, raw))]
        return [*probes, *self._extras(spec, "output", raw)]

    def _guess_output(
        self, spec: TensorSpec, wishes: TensorWishes, raw: Array, real: npt.NDArray[np.float64]
    ) -> str:
        if self._is_state(spec, raw):
            return "summary"
        if wishes.of or self._original(spec, wishes, raw) is not None:
            return "reconstruction"
        shape = [d for d in raw.shape[1:] if d != 1]
        if len(shape) > 1:
            return "summary"
        size = real.shape[1]
        if (
            score_kind(spec, real, two_classes=self._two_classes) in ("probabilities", "binary")
            or wishes.scores
            or wishes.classes
        ):
            return "classification"
        if size > 1 and (len(self.classes) == size or self.labelled):
            return "classification"
        if size == 1:
            if raw.dtype.kind in "iu" and not spec.quantized and few_whole_numbers(real[:, 0]):
                return "classification"
            return "regression"
        if confident(real):
            self.notes.append(
                f"output {spec.name!r} is taken for class scores before softmax (logits); if it is not, "
                f'say so: [probes.outputs."{spec.name}"] as = "regression" or "embedding"'
            )
            return "classification"
        return "regression" if size <= MAX_REGRESSION else "embedding"

    def _classification(
        self, spec: TensorSpec, wishes: TensorWishes, real: npt.NDArray[np.float64], prefix: str
    ) -> list[Probe]:
        size = real.shape[1]
        classes = wishes.classes or (
            self.classes if len(self.classes) in (size, 2 if size == 1 else size) else ()
        )
        scores = wishes.scores or score_kind(spec, real, two_classes=self._two_classes)
        expected = 2 if scores == "binary" else size
        if classes and len(classes) != expected:
            raise ConfigError(
                f"probes.outputs.{spec.name}.classes", f"{len(classes)} class names for {expected} classes"
            )
        if size == 1 and scores != "binary":
            # The model already says the class: a label, not scores.
            name = prefix + ("class" if f"{prefix}class" not in self.names else spec.name)
            return [CategoricalColumns(spec, "output", (0,), (name,))]
        return [Classification(spec, prefix, scores, tuple(classes))]

    def _original(self, spec: TensorSpec, wishes: TensorWishes, raw: Array) -> TensorSpec | None:
        for source in self.inputs:
            given = self.sample.inputs.get(source.name)
            if given is None or (wishes.of is not None and wishes.of != source.name):
                continue
            if given.shape == raw.shape and raw[0].size > 1 and source.dtype.kind in ("f", spec.dtype.kind):
                return source
        return None

    def _is_state(self, spec: TensorSpec, raw: Array) -> bool:
        return any(self._state_of(source) is spec for source in self.inputs)

    @property
    def _two_classes(self) -> bool:
        return self.labelled or len(self.classes) == 2

    # --- both

    def _extras(self, spec: TensorSpec, side: str, raw: Array) -> list[Probe]:
        """Limits and codes, where the tensor is quantized and long enough to say something."""
        probes: list[Probe] = []
        if spec.dtype.kind not in "iu" or spec.dtype.itemsize > 2 or raw[0].size < 16:
            return probes
        if "limits" not in self.config.disable:
            probes.append(Limits(spec, side, f"{spec.name}.at_limits"))
        if "codes" not in self.config.disable and spec.dtype.itemsize == 1:
            probes.append(Codes(spec, side, f"{spec.name}.codes"))
        return probes


def _embedding(spec: TensorSpec, side: str, prefix: str, raw: Array) -> Embedding:
    return Embedding(spec, side, prefix, raw[0].size, _DIRECTIONS, _SEED)
