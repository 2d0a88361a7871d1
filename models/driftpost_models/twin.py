"""A float build of the same model beside the guarded one: how far do their answers agree?

Quantization that went wrong, a layer that a converter dropped or another preprocessing leave accuracy looking
well for a while, and answers elsewhere. The float twin says so at the build, over many rows of the reference,
and its answers to the golden inputs travel in the bundle: a device whose answers have left the bundle's can
then tell whether they went towards the float model's or away from both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ModelRefused, ReferenceRefused
from driftpost_models.feeder import Feeder
from driftpost_models.probes.classification import Classification
from driftpost_models.probes.guesses import image_layout, score_kind
from driftpost_models.runtime import Array, Runtime, TensorSpec

LEAST_AGREEMENT = 0.9
"""Share of rows with the same best class. Sound int8 builds of public models differ in up to 7 % of rows."""

MOST_DISTANCE = 0.1
"""Mean distance of the answers: half of the summed differences of class probabilities, and for other outputs
the difference in parts of the float answers' range."""

CERTAIN = 2.0
"""Standard errors beyond a tolerance from which the build is refused; nearer to it the build warns."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How far two builds agree.

    Attributes:
        rows: that both answered.
        same: of them, how many got the same best class in every output of class scores; None where the model
            has no such output.
        distance: mean distance of the answers, see `MOST_DISTANCE`.
        error: standard error of `distance`.
    """

    rows: int
    same: int | None
    distance: float
    error: float

    @property
    def share(self) -> float | None:
        """Share of rows with the same best class."""
        return None if self.same is None else self.same / self.rows

    @property
    def text(self) -> str:
        """One clause for a person."""
        near = f"answers lie {self.distance:.3f} apart on average"
        if self.same is None:
            return f"over {self.rows} rows {near}, in parts of their range"
        return f"{self.same} of {self.rows} rows ({self.share:.1%}) get the same best class, and {near}"

    def to_dict(self) -> dict[str, object]:
        """Plain types."""
        return {"rows": self.rows, "same": self.same, "distance": self.distance, "error": self.error}

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> Agreement:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or no number.
        """
        rows, same, distance, error = (plain.get(key) for key in ("rows", "same", "distance", "error"))
        if type(rows) is not int or rows < 1 or not (same is None or type(same) is int):
            raise ValueError("an agreement needs its rows")
        if not isinstance(distance, (int, float)) or not isinstance(error, (int, float)):
            raise ValueError("an agreement needs its distance and that one's error")
        return cls(rows, same, float(distance), float(error))


@dataclass(frozen=True)
class Tolerance:
    """How far an int8 build may leave its float twin.

    Attributes:
        agreement: least share of rows with the same best class, 0 to 1.
        distance: most mean distance of the answers.
    """

    agreement: float = LEAST_AGREEMENT
    distance: float = MOST_DISTANCE

    def check(self, found: Agreement) -> str:
        """A note where the tolerance is left by no more than chance allows; "" where it is kept.

        Raises:
            ModelRefused: it is left for certain.
        """
        certain = found.distance - CERTAIN * found.error > self.distance
        short = found.distance > self.distance
        if found.same is not None:
            certain |= _upper(found.same, found.rows) < self.agreement
            short |= found.same < self.agreement * found.rows
        allowed = f"at least {self.agreement:.0%} and at most {self.distance:g} are allowed"
        if certain:
            raise ModelRefused(
                f"The model does not answer as its float twin does: {found.text}; {allowed}.",
                "Check the calibration set of the quantization, and that both take the same preprocessing; "
                "if this is how it shall be, say so with --float-agreement and --float-distance.",
            )
        return f"the float model barely agrees: {found.text}; {allowed}" if short else ""


def _upper(same: int, rows: int) -> float:
    """Upper end of Wilson's interval of a share (Wilson 1927), `CERTAIN` standard errors wide."""
    z = CERTAIN * CERTAIN / rows
    p = same / rows
    return (p + z / 2 + CERTAIN * math.sqrt((p * (1 - p) + z / 4) / rows)) / (1 + z)


def scores_of(outputs: Sequence[TensorSpec], probes: Sequence[object]) -> dict[str, str]:
    """What the outputs of class scores hold, as the probes read them: name to kind of scores."""
    read = {probe.tensor.name: probe.scores for probe in probes if isinstance(probe, Classification)}
    return {spec.name: read[spec.name] for spec in outputs if spec.name in read}


class Twin:
    """The float build, fed what the guarded model is fed, in natural units.

    Args:
        model: the guarded model.
        twin: its float build, not called before.
        given: names of the guarded model's inputs that the reference holds.

    Raises:
        ModelRefused: their signatures do not belong to one model.
    """

    def __init__(self, model: Runtime, twin: Runtime, given: Sequence[str]) -> None:
        self._inputs = {spec.name: spec for spec in model.inputs if spec.name in given}
        taken = _paired(list(self._inputs.values()), twin.inputs, "input")
        self._names = dict(zip(self._inputs, taken, strict=True))
        states = set(Feeder(model, given).states.values())
        answers = [spec for spec in model.outputs if spec.name not in states]
        try:
            self._feeder = Feeder(twin, [spec.name for spec in taken])
        except ReferenceRefused as error:
            raise _strange(str(error)) from error
        others = [spec for spec in twin.outputs if spec.name not in self._feeder.states.values()]
        self._outputs = dict(
            zip((spec.name for spec in answers), _paired(answers, others, "output"), strict=True)
        )

    def answer(self, fed: Mapping[str, Array]) -> dict[str, FloatArray]:
        """The twin's answers in natural units, by the guarded model's output names, shaped as those are.

        Args:
            fed: one call's inputs of the guarded model.
        """
        rows = {}
        for name, theirs in self._names.items():
            real = self._inputs[name].real(fed[name])
            rows[theirs.name] = _laid_out(real, self._inputs[name], theirs)[None]
        _, answers, _ = self._feeder.call(rows, 0)
        return {
            name: theirs.real(answers[theirs.name]).astype(np.float64)
            for name, theirs in self._outputs.items()
        }


def _paired(ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec], side: str) -> tuple[TensorSpec, ...]:
    """Their tensor for each of ours: by name, else by position."""
    named = {spec.name: spec for spec in theirs}
    if all(spec.name in named for spec in ours):
        found = tuple(named[spec.name] for spec in ours)
    elif len(theirs) >= len(ours):
        found = tuple(theirs[: len(ours)])
    else:
        raise _strange(f"it has {len(theirs)} {side}s, the guarded model {len(ours)}")
    for mine, other in zip(ours, found, strict=True):
        a, b = (math.prod(d or 1 for d in spec.row_shape) for spec in (mine, other))
        if a != b and None not in (*mine.row_shape, *other.row_shape):
            raise _strange(f"its {side} {other.name!r} is {other.describe()}, not {mine.describe()}")
    return found


def _strange(problem: str) -> ModelRefused:
    return ModelRefused(
        f"The float model is no twin of this one: {problem}.",
        "Give the float build of the very model that is guarded, with inputs and outputs in the same order.",
    )


def _laid_out(real: npt.NDArray[np.floating], ours: TensorSpec, theirs: TensorSpec) -> Array:
    """One row in the twin's layout and dtype: pixels by rows or by channels, and flat or not."""
    row = real[0] if ours.batched and real.ndim and real.shape[0] == 1 else real
    shape = [d if d is not None else -1 for d in theirs.row_shape]
    if row.ndim == 3 and len(shape) == 3:
        layouts = image_layout(row.shape), image_layout([d or 1 for d in theirs.row_shape])
        if layouts == ("nhwc", "nchw"):
            row = row.transpose(2, 0, 1)
        elif layouts == ("nchw", "nhwc"):
            row = row.transpose(1, 2, 0)
    if -1 not in shape:
        row = row.reshape(shape)
    if theirs.quantized:
        assert theirs.scale is not None
        row = np.round(row / theirs.scale) + (theirs.zero_point or 0)
        limits = np.iinfo(theirs.dtype.str)
        row = np.clip(row, limits.min, limits.max)
    return np.asarray(row.astype(theirs.dtype))


def probabilities(spec: TensorSpec, scores: str, real: FloatArray) -> FloatArray:
    """Class probabilities of answers in natural units: float64[rows, classes].

    Args:
        spec: the guarded model's output.
        scores: what it holds; the twin's may leave the softmax to others, which its values tell.
        real: float64[rows, ...].
    """
    flat = np.asarray(real.reshape(len(real), -1), np.float64)
    plain = TensorSpec(spec.name, (None, flat.shape[1]), np.dtype(np.float64))
    kind = scores if scores == "binary" else score_kind(plain, flat, two_classes=False)
    return Classification(plain, "", kind, ()).probabilities(flat)


def best_class(spec: TensorSpec, scores: str, real: FloatArray) -> npt.NDArray[np.int64]:
    """int64[rows]: the best class of each row; -1 where a score is no number."""
    p = probabilities(spec, scores, real)
    return np.where(np.isfinite(p).all(axis=1), p.argmax(axis=1), -1)


def agreement(
    outputs: Sequence[TensorSpec],
    scores: Mapping[str, str],
    ours: Mapping[str, FloatArray],
    twins: Mapping[str, FloatArray],
) -> Agreement:
    """How far two sets of answers in natural units agree.

    Args:
        outputs: of the guarded model.
        scores: from `scores_of`.
        ours: float64[rows, ...] by output name.
        twins: likewise; outputs that are missing here are left out.
    """
    rows = len(next(iter(twins.values())))
    same = np.ones(rows, dtype=bool)
    apart = np.zeros(rows)
    for spec in outputs:
        if spec.name not in twins:
            continue
        a, b = (np.asarray(side[spec.name], np.float64).reshape(rows, -1) for side in (ours, twins))
        if spec.name in scores:
            p, q = (probabilities(spec, scores[spec.name], real) for real in (a, b))
            same &= best_class(spec, scores[spec.name], a) == best_class(spec, scores[spec.name], b)
            gap = 0.5 * np.abs(p - q).sum(axis=1)
        else:
            span = float(np.ptp(b[np.isfinite(b)])) if np.isfinite(b).any() else 0.0
            gap = np.abs(a - b).mean(axis=1) / (span or max(float(np.abs(b).max(initial=0.0)), 1e-9))
        # What is no number agrees with nothing but itself.
        gap = np.where(np.isfinite(gap), gap, np.where(np.isnan(a).all(1) & np.isnan(b).all(1), 0.0, 1.0))
        apart = np.maximum(apart, np.minimum(gap, 1.0))
    error = float(apart.std()) / math.sqrt(rows)
    return Agreement(rows, int(same.sum()) if scores else None, float(apart.mean()), error)
