"""A small set of coupons in the order in which Apache DataSketches writes them.

Up to seven lie in a list as they came, more in an open-addressing table whose order is its slots'.
"""

from __future__ import annotations

from collections.abc import Iterable

from driftpost_sketches.datasketches.coupons import ADDRESS_MASK

LG_LIST = 3
LG_TABLE = 5  # slots of the first table, as a power of two


class CouponSet:
    """Different coupons.

    Args:
        lg_k: of the sketch they belong to.

    Attributes:
        lg_slots: slots of the list or table, as a power of two.
        table: whether it is a table by now.
    """

    def __init__(self, lg_k: int) -> None:
        self._lg_k = lg_k
        self.lg_slots = LG_LIST
        self.table = False
        self._slots = [0] * (1 << LG_LIST)
        self._count = 0

    def add(self, coupon: int) -> bool:
        """Puts a coupon in; whether there are now so many that registers are the better place."""
        at = self._find(coupon)
        if self._slots[at] == coupon:
            return False
        self._slots[at] = coupon
        self._count += 1
        if not self.table:
            if self._count < 1 << LG_LIST:
                return False
            if self._lg_k < 8:
                return True
            self._rebuild(LG_TABLE)
            return False
        if 4 * self._count <= 3 << self.lg_slots:
            return False
        if self.lg_slots == self._lg_k - 3:
            return True
        self._rebuild(self.lg_slots + 1)
        return False

    def restore(self, coupons: Iterable[int], lg_slots: int) -> None:
        """Takes up a table as it was written: its order is kept."""
        self.table = True
        self.lg_slots = lg_slots
        self._slots = [0] * (1 << lg_slots)
        for coupon in coupons:
            self._slots[self._find(coupon)] = coupon
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __contains__(self, coupon: int) -> bool:
        return self._slots[self._find(coupon)] == coupon

    def to_list(self) -> list[int]:
        """The coupons in the order of their slots."""
        return [coupon for coupon in self._slots if coupon]

    def _rebuild(self, lg_slots: int) -> None:
        coupons = self.to_list()
        self._count = 0
        self.restore(coupons, lg_slots)

    def _find(self, coupon: int) -> int:
        """The slot of a coupon, or the free one where it belongs."""
        if not self.table:
            return next(
                (i for i, held in enumerate(self._slots) if held in (0, coupon)), len(self._slots) - 1
            )
        mask = len(self._slots) - 1
        stride = ((coupon & ADDRESS_MASK) >> self.lg_slots) | 1
        at = coupon & mask
        while self._slots[at] not in (0, coupon):
            at = (at + stride) & mask
        return at
