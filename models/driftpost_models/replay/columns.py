"""What each column of a recording is, decided on the reference, and its cells as the detectors' values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from driftpost_models.errors import TableRefused
from driftpost_models.probes.guesses import MAX_CATEGORIES
from driftpost_models.reference import MAX_ROWS
from driftpost_models.replay.tables import Cells, Numbers, RowBlock, Table, is_missing, numbers
from driftpost_models.times import seconds_of
from driftpost_sketches.errors import SketchError
from driftpost_sketches.fitting import MAX_CATEGORIES as MOST_BINS
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream

MAX_TEXTS = 65_536
"""Different texts of one column that are remembered; a column of more is no set of categories."""

UNKNOWN = 2.0**53
"""Value of a category that the reference does not have: no category ever has this number."""

_ENOUGH_ROWS = 50
"""Rows below which few different numbers, or ever larger ones, prove nothing."""

_OWN_TEXT = 0.25
"""Share of rows with a text of their own from which texts are taken for identifiers."""

_SAMPLE = 101
"""First cells of a column that are tried as points in time."""

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done and what there is to do."""


@dataclass(frozen=True)
class Wishes:
    """What the user said about columns, by name.

    Attributes:
        categorical: taken for categories.
        numeric: taken for numbers; texts in them are missing values.
        ignore: left out.
        labels: column with the true class; None without one.
        prediction: column with the model's answer; None without one.
        confidence: column with the answer's confidence, 0 to 1; None without one.
        time: column with the time of each row; None for the first one that looks like it.
    """

    categorical: frozenset[str] = frozenset()
    numeric: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    labels: str | None = None
    prediction: str | None = None
    confidence: str | None = None
    time: str | None = None


@dataclass
class Facts:
    """What a pass over the reference finds out about one column."""

    name: str
    rows: int = 0
    present: int = 0
    strange: int = 0
    first_strange: tuple[int, str] | None = None
    codes: dict[str, int] = field(default_factory=dict)
    distinct: set[float] = field(default_factory=set)
    whole: bool = True
    rises: int = 0
    falls: int = 0
    sample: list[str] = field(default_factory=list)
    _last: float = math.nan

    def update(self, cells: Cells) -> None:
        """Look at the next rows."""
        values, strange = numbers(cells)
        self.strange += len(strange)
        if not isinstance(cells, np.ndarray):
            self._texts(cells, strange)
        finite = values[np.isfinite(values)]
        self.rows += len(values)
        self.present += int((~np.isnan(values)).sum()) + len(strange)
        if not len(finite):
            return
        if len(self.distinct) <= MAX_CATEGORIES:
            self.distinct.update(np.unique(finite)[: MAX_CATEGORIES + 1].tolist())
        self.whole = self.whole and bool((finite == np.rint(finite)).all())
        steps = np.diff(np.concatenate([[self._last], finite]))
        self.rises += int((steps > 0).sum())
        self.falls += int((steps < 0).sum())
        self._last = float(finite[-1])

    def _texts(self, cells: Sequence[str], strange: list[int]) -> None:
        if strange and self.first_strange is None:
            self.first_strange = (self.rows + strange[0], cells[strange[0]])
        if len(self.sample) < _SAMPLE:
            self.sample += [cell.strip() for cell in cells if not is_missing(cell)][
                : _SAMPLE - len(self.sample)
            ]
        for cell in cells if len(self.codes) <= MAX_TEXTS else ():
            text = cell.strip()
            if text not in self.codes and not is_missing(text):
                self.codes[text] = len(self.codes)

    @property
    def numeric(self) -> bool:
        """Whether every cell that is there is a number."""
        return self.strange == 0

    @property
    def counter(self) -> bool:
        """Whether it only ever rises, or only falls: a clock, a counter, an identifier."""
        moves = self.rises + self.falls
        return self.rows >= _ENOUGH_ROWS and moves > self.rows / 2 and 0 in (self.rises, self.falls)


@dataclass(frozen=True)
class Column:
    """A column that becomes a stream.

    Attributes:
        name: of the column and the stream.
        categorical: whether its values are categories.
        codes: category numbers of its texts; empty where the cells are numbers.
        role: of the stream.
    """

    name: str
    categorical: bool
    codes: Mapping[str, int]
    role: Role = Role.INPUT


@dataclass(frozen=True)
class Learned:
    """The reference as the detectors take it.

    Attributes:
        columns: that are streams, in order.
        schema: their streams.
        values: float64[rows, S].
        notes: what was decided, in sentences.
        row_seconds: seconds between rows by a column of times; None where there is none.
        clock: name of that column; None where there is none.
        times: float64[rows], seconds since 1970 by that column, NaN where a cell has none; None without it.
    """

    columns: tuple[Column, ...]
    schema: Schema
    values: Numbers
    notes: tuple[str, ...]
    row_seconds: float | None
    clock: str | None
    times: Numbers | None


def learn(reference: Table, live: Table, wishes: Wishes, tell: Progress) -> Learned:
    """Decide what the columns are and read the reference.

    Args:
        reference: rows in time order.
        live: looked at for its columns only.
        wishes: of the user.
        tell: told how far the work is.

    Raises:
        TableRefused: nothing to watch, columns that are missing, or cells that are neither one nor the other.
    """
    _check_wishes(reference, wishes)
    facts = {name: Facts(name) for name in reference.names}
    rows = 0
    for block in reference.blocks():
        rows += block.rows
        if rows > MAX_ROWS:
            raise TableRefused(
                reference.path, f"has more than {MAX_ROWS:,} rows; give its newest part as reference"
            )
        for name, cells in block.columns.items():
            facts[name].update(cells)
        tell("looking at the columns", block.done, reference.size)
    if not rows:
        raise TableRefused(reference.path, "has a header but no rows")
    chosen, notes, row_seconds, clock = _decide(reference, live, facts, wishes)
    values = np.empty((rows, len(chosen)))
    times = None if clock is None else np.empty(rows)
    encoder = Encoder(reference, chosen)
    for block in reference.blocks():
        values[block.start : block.start + block.rows] = encoder.encode(block)
        if clock is not None and times is not None:
            times[block.start : block.start + block.rows] = times_of(reference, clock, block)
        tell("reading the reference", block.done, reference.size)
    try:
        schema = Schema([_stream(column, values[:, i]) for i, column in enumerate(chosen)])
    except SketchError as error:
        raise TableRefused(reference.path, str(error)) from error
    return Learned(chosen, schema, values, (*notes, *encoder.notes()), row_seconds, clock, times)


def times_of(table: Table, clock: str, block: RowBlock) -> Numbers:
    """Seconds since 1970 of a block's rows by a column of times: float64[rows], NaN where there is none.

    Raises:
        TableRefused: no such column, or a cell that is no point in time.
    """
    if clock not in block.columns:
        raise TableRefused(table.path, f"has no column {clock!r} with the times of its rows")
    cells = block.columns[clock]
    out = np.empty(block.rows)
    for place, cell in enumerate(cells):
        text = str(cell)
        try:
            out[place] = math.nan if is_missing(text) else seconds_of(text)
        except ValueError as error:
            raise TableRefused(
                table.path,
                f"{text[:40]!r} in row {block.start + place + 1:,} of {clock!r} is no point in time; give "
                "ISO 8601 or seconds since 1970",
            ) from error
    return out


def class_names(column: Column) -> tuple[str, ...]:
    """Classes by number, of a column of answers."""
    names = {number: class_name(text) for text, number in column.codes.items()}
    return tuple(names[number] for number in range(len(names)))


class Encoder:
    """Blocks of one table as the value matrix, and a count of what did not fit."""

    def __init__(self, table: Table, columns: Sequence[Column]) -> None:
        self._table = table
        self._columns = columns
        self._strange: dict[str, tuple[int, int, str]] = {}
        self._unseen: dict[str, tuple[int, int, str]] = {}

    def encode(self, block: RowBlock) -> Numbers:
        """float64[rows, S], NaN where a value is missing."""
        out = np.empty((block.rows, len(self._columns)))
        for i, column in enumerate(self._columns):
            cells = block.columns[column.name]
            if column.codes:
                out[:, i] = self._coded(column, _as_texts(cells), block.start)
                continue
            out[:, i], strange = numbers(cells)
            if not strange or isinstance(cells, np.ndarray):
                continue
            if column.categorical:
                out[strange, i] = UNKNOWN
            _count(
                self._unseen if column.categorical else self._strange,
                column.name, len(strange), block.start + strange[0], cells[strange[0]],
            )  # fmt: skip
        return out

    def _coded(self, column: Column, texts: Sequence[str], start: int) -> Numbers:
        values = np.empty(len(texts))
        for place, cell in enumerate(texts):
            text = cell.strip()
            code = column.codes.get(text)
            if code is not None:
                values[place] = code
            elif is_missing(text):
                values[place] = math.nan
            else:
                values[place] = UNKNOWN
                _count(self._unseen, column.name, 1, start + place, text)
        return values

    def notes(self) -> list[str]:
        """Sentences about cells that did not fit."""
        name = self._table.path.name
        return [
            f"{column}: {count:,} cells of {name} are no numbers and count as missing values "
            f"(the first is {text[:40]!r} in row {row + 1:,})"
            for column, (count, row, text) in self._strange.items()
        ] + [
            f"{column}: {count:,} cells of {name} hold texts that the reference does not have "
            f"(the first is {text[:40]!r} in row {row + 1:,})"
            for column, (count, row, text) in self._unseen.items()
        ]


def _count(table: dict[str, tuple[int, int, str]], name: str, more: int, row: int, text: str) -> None:
    count, first, shown = table.get(name, (0, row, text))
    table[name] = (count + more, first, shown)


def _as_texts(cells: Cells) -> Sequence[str]:
    if isinstance(cells, np.ndarray):
        return ["" if math.isnan(cell) else f"{cell:g}" for cell in cells.tolist()]
    return cells


def _check_wishes(reference: Table, wishes: Wishes) -> None:
    named = (
        wishes.categorical
        | wishes.numeric
        | wishes.ignore
        | ({wishes.labels, wishes.prediction, wishes.confidence, wishes.time} - {None})
    )
    for name in sorted(str(n) for n in named):
        if name not in reference.names:
            raise TableRefused(
                reference.path, f"has no column {name!r} (it has: {', '.join(reference.names)})"
            )
    for name in sorted(wishes.categorical & wishes.numeric):
        raise TableRefused(reference.path, f"column {name!r} can not be both categorical and numeric")


def _decide(
    reference: Table, live: Table, facts: Mapping[str, Facts], wishes: Wishes
) -> tuple[tuple[Column, ...], list[str], float | None, str | None]:
    chosen: list[Column] = []
    notes = [*reference.notes, *live.notes]
    seconds: float | None = None
    clock = wishes.time
    kept = set(live.names)
    missing = []
    for name in reference.names:
        if name in wishes.ignore:
            continue
        if wishes.prediction is not None and name == wishes.labels:
            continue
        column: Column | None
        if name == wishes.prediction:
            column, note, period = (
                Column(name, True, _class_codes(reference, facts, wishes), Role.OUTPUT),
                "",
                None,
            )
        elif name == wishes.confidence:
            column, note, period = Column(name, False, {}, Role.OUTPUT), "", None
        else:
            column, note, period = _one(reference, facts[name], wishes)
        seconds = seconds if seconds is not None else period
        clock = name if clock is None and period is not None else clock
        if note:
            notes.append(note)
        if column is None:
            continue
        if name in kept:
            chosen.append(column)
        elif name == wishes.labels:
            notes[-1] = f"{name}: the live data have no labels, so nothing is said about classes"
        else:
            missing.append(name)
    if missing:
        others = [name for name in live.names if name not in reference.names]
        hint = f" (it has, unlike the reference: {', '.join(others[:8])})" if others else ""
        raise TableRefused(
            live.path,
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing[:8])} of the reference{hint}; "
            "give both the same header, or leave columns out with --ignore",
        )
    if not chosen:
        raise TableRefused(
            reference.path,
            "has no column that can be watched" + "".join(f"; {note}" for note in notes[-3:]),
        )
    extra = [name for name in live.names if name not in reference.names]
    if extra:
        notes.append(f"columns that the reference does not have are left out: {', '.join(extra[:8])}")
    return tuple(chosen), notes, seconds, clock


def _one(reference: Table, facts: Facts, wishes: Wishes) -> tuple[Column | None, str, float | None]:
    """What one column becomes, a sentence on why, and the seconds between its times."""
    name = facts.name
    if name == wishes.time:
        return None, f"{name}: the times of the rows", _period(facts.sample)
    if not facts.present:
        return None, f"{name}: no value in the whole reference; left out", None
    if name == wishes.labels:
        return _labels(facts)
    if name in wishes.numeric:
        return Column(name, False, {}), "", None
    if name in wishes.categorical:
        return _categories(facts), "", None
    if facts.numeric:
        if facts.counter:
            way = "rises" if facts.rises else "falls"
            return None, f"{name}: only ever {way} (a clock, a counter, an id?); left out", None
        if len(facts.distinct) == 1 and facts.present == facts.rows:
            value = next(iter(facts.distinct))
            note = f"{name}: constant in the reference ({value:g}); any other value is a change"
            return Column(name, False, {}), note, None
        if 2 <= len(facts.distinct) <= MAX_CATEGORIES and facts.whole and facts.rows >= _ENOUGH_ROWS:
            note = (
                f"{name}: {len(facts.distinct)} different whole numbers, taken for categories "
                f"(--numeric {name} if they are quantities)"
            )
            return Column(name, True, {}), note, None
        return Column(name, False, {}), "", None
    period = _period(facts.sample)
    if period is not None:
        return None, f"{name}: points in time; left out", period
    if facts.strange < facts.present / 2:
        row, text = facts.first_strange or (0, "")
        raise TableRefused(
            reference.path,
            f"column {name!r} holds numbers, but {text[:40]!r} in row {row + 1:,}; leave the cell empty if "
            f"the value is missing, or give --numeric {name} (texts are missing values), --categorical "
            f"{name} or --ignore {name}",
        )
    if len(facts.codes) > max(MOST_BINS, _OWN_TEXT * facts.rows):
        return None, f"{name}: nearly every row has a text of its own (an id?); left out", None
    note = f"{name}: {len(facts.codes)} different texts, taken for categories"
    if len(facts.codes) > MOST_BINS:
        note += f"; the {MOST_BINS} most frequent ones are told apart"
    return _categories(facts), note, None


def _labels(facts: Facts) -> tuple[Column, str, float | None]:
    name = facts.name
    said = "Whether answers became worse (concept shift) is not tested: that takes the model's answers too"
    if facts.numeric and not (facts.whole and len(facts.distinct) <= MAX_CATEGORIES):
        note = f"{name}: labels that are quantities, watched as a numeric stream. {said}"
        return Column(name, False, {}, Role.OUTPUT), note, None
    note = f"{name}: labels, watched as categories: a finding is a change of the classes' shares. {said}"
    column = _categories(facts)
    return Column(name, True, column.codes, Role.OUTPUT), note, None


def _class_codes(reference: Table, facts: Mapping[str, Facts], wishes: Wishes) -> dict[str, int]:
    """Class numbers of the texts of answers and labels, in the order of numbers or of the alphabet."""
    texts: set[str] = set()
    for name in (wishes.prediction, wishes.labels):
        if name is not None:
            texts |= set(facts[name].codes) | {f"{value:g}" for value in facts[name].distinct}
    if len(texts) > MAX_TEXTS or not texts:
        raise TableRefused(reference.path, f"column {wishes.prediction!r} holds no classes, or too many")
    plain = {text: class_name(text) for text in texts}
    names = sorted(set(plain.values()), key=_class_order)
    return {text: names.index(name) for text, name in plain.items()}


def class_name(text: str) -> str:
    """A class as it is shown: `3` for `3.0`."""
    return f"{float(text):g}" if _number(text) else text


def _class_order(name: str) -> tuple[bool, float, str]:
    return (False, float(name), name) if _number(name) else (True, 0.0, name)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _categories(facts: Facts) -> Column:
    """Categories by number where all cells are whole numbers, else by text in the order of appearance."""
    by_number = facts.numeric and facts.whole
    return Column(facts.name, True, {} if by_number else dict(facts.codes))


def _stream(column: Column, values: Numbers) -> Stream:
    if not column.categorical:
        return fit_numeric(column.name, values, column.role)
    known = values[values != UNKNOWN]
    return fit_categorical(
        column.name, known, column.role, {code: text for text, code in column.codes.items()}
    )


def _period(sample: Sequence[str]) -> float | None:
    """Seconds between points in time, 0 where they do not differ; None if these are none."""
    times = []
    for text in sample:
        try:
            times.append(seconds_of(text))
        except ValueError:
            return None
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0
