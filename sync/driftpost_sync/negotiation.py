"""Which MQTT version to try next: 5, or 3.1.1 where the broker does not speak 5.

Old brokers refuse version 5 in three ways: with a proper answer, with an answer in the older format, or by
hanging up. Only the first two are evidence; a broker that dies in the middle of a connect hangs up as well.
"""

from __future__ import annotations

from driftpost_sync.mqtt_settings import Protocol

# Connections made with 3.1.1 on weak evidence before 5 is given another chance.
RETRY_5_AFTER = 8


class Negotiation:
    """Remembers what a broker has shown; one per link."""

    def __init__(self, wanted: Protocol) -> None:
        self._wanted = wanted
        self._version: Protocol = "3.1.1" if wanted == "3.1.1" else "5"
        self._certain = wanted != "auto"
        self._left = RETRY_5_AFTER

    @property
    def version(self) -> Protocol:
        """What to try now: "5" or "3.1.1"."""
        return self._version

    def accepted(self) -> None:
        """A connection with `version` was accepted."""
        if self._version == "5":
            self._certain = True
        elif not self._certain:
            self._left -= 1
            if self._left <= 0:
                self._left = RETRY_5_AFTER
                self._version = "5"

    def refused_version(self) -> bool:
        """The broker said that it does not speak `version`.

        Returns:
            Whether another version is worth trying at once.
        """
        if self._wanted != "auto" or self._version == "3.1.1":
            return False
        self._version = "3.1.1"
        self._certain = True
        return True

    def no_answer(self) -> bool:
        """The connection was closed, or stayed silent, before the broker answered.

        Returns:
            Whether another version is worth trying at once.
        """
        if self._wanted != "auto" or self._certain:
            return False
        self._version = "3.1.1" if self._version == "5" else "5"
        return self._version == "3.1.1"
