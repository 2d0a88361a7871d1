"""Frequent items: the most common values of a stream of unknown vocabulary, in a map of bounded size.

Misra-Gries counters as Anderson et al. (2017) purge them: when the map is full, the median of its counts
is taken off every count and those that reach zero go. What was taken off in all bounds every error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from driftpost_sketches.datasketches import frequent_bytes

Item = int | str
MIN_LG, MAX_LG = 3, 26
LOAD = 0.75  # share of the map's slots that may be taken
BLOCK = 4096  # values counted at a time


class FrequentItems:
    """Counts of the most frequent whole numbers or texts.

    Args:
        lg_size: slots of the map as a power of two, 3 to 26. Every item with more than 3.5 / 2^lg_size of the
            weight is in it.
        strings: items are texts, not whole numbers within 64 bits.

    Attributes:
        lg_size: as given.
        lg_now: slots of the map that would hold what is in it now, as the library grows it.
        strings: as given.
        weight: of all that was seen.
        offset: largest error of a count: what purges took off in all.
        counts: by item; at most 3/4 of 2^lg_size of them.
    """

    def __init__(self, lg_size: int = 10, *, strings: bool = False) -> None:
        if not MIN_LG <= lg_size <= MAX_LG:
            raise ValueError(f"lg_size lies between {MIN_LG} and {MAX_LG}, not at {lg_size}")
        self.lg_size = lg_size
        self.lg_now = MIN_LG
        self.strings = strings
        self.weight = 0
        self.offset = 0
        self.counts: dict[Item, int] = {}

    @property
    def capacity(self) -> int:
        """Items that may be held."""
        return int(LOAD * (1 << self.lg_size))

    @property
    def empty(self) -> bool:
        """Whether it has seen nothing."""
        return self.weight == 0

    def update(self, values: npt.NDArray[np.int64]) -> None:
        """Takes whole numbers: int64[n].

        Raises:
            ValueError: it counts texts.
        """
        if self.strings:
            raise ValueError("this sketch counts texts; use update_strings")
        for start in range(0, len(values), BLOCK):
            found, counts = np.unique(values[start : start + BLOCK], return_counts=True)
            self._take(zip(found.tolist(), counts.tolist(), strict=True))

    def update_strings(self, texts: Sequence[str]) -> None:
        """Takes texts.

        Raises:
            ValueError: it counts whole numbers.
        """
        if not self.strings:
            raise ValueError("this sketch counts whole numbers; use update")
        for start in range(0, len(texts), BLOCK):
            counted: dict[Item, int] = {}
            for text in texts[start : start + BLOCK]:
                counted[text] = counted.get(text, 0) + 1
            self._take(counted.items())

    def merge(self, other: FrequentItems) -> None:
        """Takes what another sketch has seen.

        Raises:
            ValueError: one counts texts and the other whole numbers.
        """
        if self.strings != other.strings:
            raise ValueError("a sketch of texts does not merge with one of whole numbers")
        weight = self.weight + other.weight
        self._take(other.counts.items())
        self.offset += other.offset
        self.weight = weight

    def bounds(self, item: Item) -> tuple[int, int]:
        """Lower and upper bound of an item's count; both always hold."""
        held = self.counts.get(item, 0)
        return held, held + self.offset

    def estimate(self, item: Item) -> int:
        """An item's count: the upper bound where it is held, else 0."""
        held = self.counts.get(item, 0)
        return held + self.offset if held else 0

    def frequent(self, *, sure: bool = False) -> list[tuple[Item, int]]:
        """Items with estimates, most frequent first.

        Args:
            sure: only those whose lower bound exceeds the error: none is there by mistake. Otherwise none
                that occurred more often than the error is missing.
        """
        least = self.offset if sure else 0
        held = [(item, count) for item, count in self.counts.items() if count > least]
        held.sort(key=lambda pair: (-pair[1], pair[0]))
        return [(item, count + self.offset) for item, count in held]

    def to_bytes(self) -> bytes:
        """The library's form."""
        return frequent_bytes.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes, *, strings: bool = False) -> FrequentItems:
        """Reads the library's form; the bytes do not say what the items are.

        Raises:
            MalformedSketch: it is not such a sketch.
        """
        return frequent_bytes.decode(data, strings=strings)

    def restore(self, counts: Mapping[Item, int], *, weight: int, offset: int, lg_now: int) -> None:
        """Takes up counts as they were left."""
        self.counts = dict(counts)
        self.weight, self.offset, self.lg_now = weight, offset, lg_now

    def _take(self, pairs: Iterable[tuple[Item, int]]) -> None:
        held = self.counts
        for item, count in pairs:
            self.weight += count
            held[item] = held.get(item, 0) + count
        while len(held) > LOAD * (1 << self.lg_now) and self.lg_now < self.lg_size:
            self.lg_now += 1
        if len(held) > self.capacity:
            self._purge()

    def _purge(self) -> None:
        """Takes one count off all, so large that at most the capacity's half remain."""
        counts = np.array(list(self.counts.values()), dtype=np.int64)
        # A block may bring more items than half of what is held: the count is that of rank capacity / 2.
        keep = self.capacity // 2
        off = int(np.partition(counts, len(counts) - keep - 1)[len(counts) - keep - 1])
        self.counts = {item: count - off for item, count in self.counts.items() if count > off}
        self.offset += off
