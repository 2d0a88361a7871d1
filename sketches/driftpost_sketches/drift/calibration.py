"""Calibration: what the reference, in time order, allows the detectors to promise."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.binning import Binner
from driftpost_sketches.cells import CELLS, value_cells
from driftpost_sketches.drift.bets import REFERENCE_ERRORS, Margins, errors_needed, independent_needed
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.chain import Chain, fit_chain
from driftpost_sketches.drift.folding import selection_bias
from driftpost_sketches.drift.joint.fit import fit_plan
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.drift.reference_notes import distinct_rows, notes_on
from driftpost_sketches.drift.roughness import TILTS, Roughness
from driftpost_sketches.drift.tilts import plan_tilts
from driftpost_sketches.errors import CalibrationError, MalformedSketch
from driftpost_sketches.schema import Role, Schema, StreamKind
from driftpost_sketches.window import Window

MAGIC = b"DPC"
VERSION = 4
MAX_BYTES = 32 << 20  # 41 streams take about 100 kB
MAX_HEAD = 8 << 20
DEFAULT_EFFECT = 0.02  # reference standard deviations
MAX_EFFECT = 100.0  # reference standard deviations
MIN_ROWS = 100  # below it there is no chain to fit
JOINT_ROLES = (Role.INPUT, Role.OUTPUT, Role.QUALITY)  # latency and health depend on the machine
JOINT_OWN = 0.9  # share of the rows that a partial stream must have to be watched with others
BLOCK = 4096  # rows sketched at a time

Indices = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Everything a detector needs to know of the reference.

    Attributes:
        schema: the streams.
        chains: one for each tracked stream, in the order of `schema.tracked_streams`.
        smallest_effect: float64[T], in reference standard deviations.
        ceiling: float64[T], independent rows that each stream's reference counts as at most, whatever its own
            memory says: what a profile that was fitted on it (of the hours of a day) is worth.
        distinct: distinct rows of the reference where it repeats itself, else its rows.
        baseline: sketch of the whole reference.
        notes: what a person should know about this reference, in sentences.
        joint: how several streams hang together; None where that is not watched.
    """

    schema: Schema
    chains: tuple[Chain, ...]
    smallest_effect: FloatArray
    ceiling: FloatArray
    distinct: int
    baseline: Window
    notes: tuple[str, ...]
    joint: JointPlan | None = None

    @property
    def schema_id(self) -> bytes:
        """Id of the schema this calibration belongs to."""
        return self.schema.id

    @classmethod
    def fit(
        cls,
        schema: Schema,
        values: FloatArray,
        *,
        smallest_effect: float | Mapping[str, float] = DEFAULT_EFFECT,
        codes: Mapping[str, npt.NDArray[Any]] | None = None,
        ceiling: Mapping[str, float] | None = None,
        joint: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Calibration:
        """Learns the reference.

        Args:
            schema: streams fitted to this reference.
            values: float64[n, S_scalar], reference rows **in time order**.
            smallest_effect: smallest change worth knowing, in reference standard deviations: one number, or
                by stream name ("*" for those not named). Names of streams that are not tracked are ignored.
            codes: tensors of the codes streams, n rows each, for the baseline.
            ceiling: see the attribute, by stream name; the rows where left out.
            joint: whether to watch how the numeric streams of inputs and outputs hang together, where the
                reference can carry it; a note says so where it can not.
            progress: called with (streams done, streams in all).

        Raises:
            CalibrationError: fewer rows than a chain needs, in all or of a partial stream's own, or an effect
                that is not a size.
            MalformedSketch: values or codes that do not fit the schema.
        """
        values = np.asarray(values, dtype=np.float64)
        accumulator = WindowAccumulator(schema)
        accumulator.update(values, codes)
        baseline, _ = accumulator.take()
        rows = len(values)
        if rows < MIN_ROWS:
            raise CalibrationError(
                f"the reference has {rows} rows; at least {MIN_ROWS} are needed, and ten thousand or more "
                "for alarms that come once a year"
            )
        effects = _effects(schema, smallest_effect)
        binner = Binner(schema)
        cells = np.empty((values.shape[1], rows), dtype=np.int64)
        for begin in range(0, rows, BLOCK):
            block = np.ascontiguousarray(values[begin : begin + BLOCK].T)
            cells[:, begin : begin + BLOCK] = binner.fold(binner.bins(block), np.isfinite(block))
        column = {int(i): c for c, i in enumerate(schema.scalar_streams)}
        chains = []
        for done, i in enumerate(schema.tracked_streams):
            stream, c = schema.streams[i], column[int(i)]
            numeric = stream.kind is StreamKind.NUMERIC
            own, series = cells[c], values[:, c]
            if stream.partial:
                mine = ~np.isnan(series)
                own, series = own[mine], series[mine]
            if len(series) < MIN_ROWS:
                raise CalibrationError(
                    f"only {len(series)} reference rows belong to {stream.name}; {MIN_ROWS} are needed"
                )
            chains.append(fit_chain(own, series, numeric, value_cells(stream)))
            if progress is not None:
                progress(done + 1, len(schema.tracked_streams))
        distinct = distinct_rows(schema, values)
        notes = notes_on(schema, chains, rows, distinct)
        names = [schema.streams[i].name for i in schema.tracked_streams]
        least = [
            min(chain.rows, (ceiling or {}).get(n, math.inf)) for n, chain in zip(names, chains, strict=True)
        ]
        most = np.array(least, dtype=np.float64)
        plan = None
        if joint:
            tracked = cells[[column[int(i)] for i in schema.tracked_streams]]
            plan, why = fit_plan(tracked, *_joint_streams(schema, chains, rows), distinct)
            notes = (*notes, why) if why else notes
        return cls(schema, tuple(chains), effects, most, distinct, baseline, notes, plan)

    def margins(self, t: int) -> Margins:
        """What the bets on tracked stream `t` are charged for a trifle and for the reference's own error."""
        chain = self.chains[t]
        own = chain.rows / max(self.baseline.rows, 1)
        independent = min(chain.rows / chain.correlation_rows, self.distinct * own, float(self.ceiling[t]))
        i = self.schema.tracked_streams[t]
        counts = self.baseline.counts[self.schema.offsets[i] : self.schema.offsets[i + 1]]
        bias = selection_bias(self.schema.streams[i], counts, independent)
        return Margins(float(self.smallest_effect[t]) + bias, independent)

    def tau(self, name: str) -> float:
        """Rows of stream `name` that carry as much as one independent row (at least 1).

        Raises:
            KeyError: no tracked stream of that name.
        """
        return self.chains[self._position(name)].correlation_rows

    def n_ref(self, name: str) -> float:
        """Independent, distinct rows that the reference of stream `name` amounts to.

        Raises:
            KeyError: no tracked stream of that name.
        """
        return self.margins(self._position(name)).independent

    def effect(self, name: str) -> float:
        """Smallest change of stream `name` worth knowing, reference standard deviations.

        Raises:
            KeyError: no tracked stream of that name.
        """
        return float(self.smallest_effect[self._position(name)])

    @property
    def tracked_names(self) -> tuple[str, ...]:
        """Names of the streams that detectors watch, in order."""
        return tuple(self.schema.streams[i].name for i in self.schema.tracked_streams)

    def short_for(self, budget: Budget, window_s: float) -> list[str]:
        """Where this reference is too short for `budget`: a sentence for each stream, empty when it suffices.

        The promise is kept all the same: detectors charge a short reference for its error, and find only
        larger changes. The sentences say how large, and how many more rows would mend it.

        Args:
            budget: false alarms allowed.
            window_s: seconds a window covers.
        """
        threshold = budget.log_threshold(window_s)
        sentences = []
        for t, name in enumerate(self.tracked_names):
            margins = self.margins(t)
            needed = independent_needed(margins.effect, threshold, len(self.chains))
            if margins.independent >= needed:
                continue
            charged = margins.charging(errors_needed(margins, threshold, len(self.chains)))
            each = self.baseline.rows / margins.independent
            more = math.ceil((needed - margins.independent) * each / 100.0) * 100
            sentences.append(
                f"{name}: the reference counts as {margins.independent:,.0f} independent rows; {budget} asks "
                f"for {needed:,.0f}. Add about {more:,} rows in time order; until then changes below "
                f"{charged.gate:.2f} reference sd stay unseen"
            )
        return sentences

    def _position(self, name: str) -> int:
        at = np.flatnonzero(self.schema.tracked_streams == self.schema.index(name))
        if not at.size:
            raise KeyError(name)
        return int(at[0])

    def to_bytes(self) -> bytes:
        """The calibration in its versioned form (docs/formats.md)."""
        head = {
            "schema": self.schema.to_dict(),
            "distinct": self.distinct,
            "notes": list(self.notes),
            "chains": [
                {
                    "ordered": c.ordered,
                    "rows": c.rows,
                    "scores": len(c.scores),
                    "repeats": c.repeats,
                    "repeat_tau": c.repeat_tau,
                    "steps": c.roughness is not None,
                }
                for c in self.chains
            ],
        }
        pieces = [
            packing.blob_bytes(json.dumps(head, separators=(",", ":")).encode()),
            packing.blob_bytes(self.baseline.to_bytes()),
            self.smallest_effect.astype("<f8").tobytes(),
            self.ceiling.astype("<f8").tobytes(),
            packing.blob_bytes(b"" if self.joint is None else self.joint.to_bytes()),
        ]
        for c in self.chains:
            for array in (c.shares, c.visits, c.matrix, c.scores, c.tau_chain, c.tau, c.excess, c.caution):
                pieces.append(array.astype("<f8").tobytes())
            if c.roughness is not None:
                of = c.roughness
                pieces.append(np.array([of.tau_chain, of.tau, *of.caution], dtype="<f8").tobytes())
        return MAGIC + bytes([VERSION]) + zlib.compress(b"".join(pieces), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Calibration:
        """Reads `to_bytes`'s form.

        Raises:
            MalformedSketch: damaged, inconsistent, or not a calibration.
            UnsupportedVersion: written by a newer format.
        """
        reader = packing.Reader(
            packing.unwrap(data, MAGIC, VERSION, "a calibration", most=MAX_BYTES, most_plain=2 * MAX_BYTES)
        )
        head = reader.blob(MAX_HEAD)
        baseline = Window.from_bytes(reader.blob(MAX_BYTES))
        try:
            plain = json.loads(head)
            schema = Schema.from_dict(plain["schema"])
            heads, distinct = list(plain["chains"]), int(plain["distinct"])
            notes = tuple(str(note) for note in plain["notes"])
            if len(heads) != len(schema.tracked_streams):
                raise MalformedSketch("a calibration has one chain for each tracked stream")
            effects, ceiling = reader.array("<f8", len(heads)), reader.array("<f8", len(heads))
            joint = reader.blob(MAX_BYTES)
            chains = tuple(_read_chain(reader, h) for h in heads)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, MalformedSketch):
                raise
            raise MalformedSketch(f"a calibration's description can not be read: {error}") from error
        reader.finish()
        baseline.check(schema)
        if not ((effects >= 0) & (effects <= MAX_EFFECT)).all() or distinct < 1:
            raise MalformedSketch("a smallest effect or a number of rows is none")
        if not ((ceiling > 0) & (ceiling <= [c.rows for c in chains])).all():
            raise MalformedSketch("a reference counts as no rows, or as more than it has")
        plan = JointPlan.from_bytes(joint, len(chains)) if joint else None
        return cls(schema, chains, effects, ceiling, distinct, baseline, notes, plan)


def _joint_streams(schema: Schema, chains: Sequence[Chain], rows: int) -> tuple[Indices, list[FloatArray]]:
    """Streams whose joint behaviour is watched (positions among tracked ones), and their cells' shares."""
    used = [
        t
        for t, i in enumerate(schema.tracked_streams)
        if schema.streams[i].kind is StreamKind.NUMERIC
        and schema.streams[i].role in JOINT_ROLES
        and chains[t].rows >= JOINT_OWN * rows
    ]
    return np.array(used, dtype=np.int64), [chains[t].shares for t in used]


def _read_chain(reader: packing.Reader, head: Mapping[str, Any]) -> Chain:
    count, rows, ordered = head["scores"], head["rows"], head["ordered"]
    if type(count) is not int or type(rows) is not int or type(ordered) is not bool:
        raise MalformedSketch("a chain's description has the wrong types")
    if not 0 <= count <= CELLS or rows < 1:
        raise MalformedSketch("a chain has too many scores or no rows")
    shares, visits = reader.array("<f8", CELLS), reader.array("<f8", CELLS)
    matrix = reader.array("<f8", CELLS, CELLS)
    scores = reader.array("<f8", count, CELLS)
    tau_chain, tau, excess = (reader.array("<f8", count) for _ in range(3))
    # Checked before the plan is made from them: a plan of numbers that are none would be none.
    if not all(np.isfinite(array).all() for array in (shares, scores, tau_chain)):
        raise MalformedSketch("a chain holds numbers that are not finite")
    caution = reader.array("<f8", len(plan_tilts(ordered, scores, shares, tau_chain)))
    repeats, repeat_tau = float(head["repeats"]), float(head["repeat_tau"])
    for sums in (shares.sum(), *matrix.sum(axis=1)):
        if not abs(sums - 1.0) < 1e-6:
            raise MalformedSketch("a chain's probabilities do not sum to one")
    everything = (shares, visits, matrix, scores, tau_chain, tau, excess, caution)
    if not all(np.isfinite(array).all() for array in everything) or not math.isfinite(repeat_tau):
        raise MalformedSketch("a chain holds numbers that are not finite")
    if (shares < 0).any() or (matrix < 0).any() or (visits < 0).any() or not 0.0 <= repeats <= 1.0:
        raise MalformedSketch("a chain holds negative probabilities")
    if (
        (tau_chain <= 0).any()
        or (tau <= 0).any()
        or (excess < 0).any()
        or not ((caution >= 0) & (caution <= 1)).all()
        or repeat_tau < 1.0
        or np.abs(scores).max(initial=0) > 1e6
    ):
        raise MalformedSketch("a chain holds impossible correlation times or scores")
    roughness = _read_roughness(reader) if ordered and head["steps"] is True else None
    return Chain(
        ordered, rows, shares, matrix, visits, scores, tau_chain, tau, excess, caution, repeats, repeat_tau,
        roughness,
    )  # fmt: skip


def _read_roughness(reader: packing.Reader) -> Roughness:
    tau_chain, tau, *caution = reader.array("<f8", 2 + TILTS).tolist()
    if not (0 < tau_chain <= tau < math.inf and all(0 <= c <= 1 for c in caution)):
        raise MalformedSketch("a chain holds an impossible memory of its steps")
    return Roughness(tau_chain, tau, np.array(caution))


def _effects(schema: Schema, smallest: float | Mapping[str, float]) -> FloatArray:
    names = [schema.streams[i].name for i in schema.tracked_streams]
    if isinstance(smallest, Mapping):
        unknown = [name for name in smallest if name != "*" and name not in schema]
        if unknown:
            raise CalibrationError(
                f"a smallest effect is given for {unknown[0]!r}, but no stream is called that"
            )
        default = smallest.get("*", DEFAULT_EFFECT)
        effects = np.array([float(smallest.get(name, default)) for name in names])
    else:
        effects = np.full(len(names), float(smallest))
    if not ((effects >= 0) & (effects <= MAX_EFFECT)).all():
        raise CalibrationError(f"a smallest effect lies between 0 and {MAX_EFFECT:g} standard deviations")
    return effects


__all__ = ["DEFAULT_EFFECT", "REFERENCE_ERRORS", "Calibration"]
