"""A file system of its own that turns read-only under whoever writes to it, as after errors of a card."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CARD_MB = 16


class Card:
    """A mounted file system in a file.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, image: Path, path: Path) -> None:
        self._image, self.path = image, path

    def mount(self) -> bool:
        """Mount it; whether that is possible here."""
        return _ran("mount", "-o", "loop", str(self._image), str(self.path))

    def turn_read_only(self) -> None:
        """What the kernel does to a file system that it can't trust any more, open files or not."""
        assert _ran("mount", "-o", "remount,abort", str(self.path))

    def unmount(self) -> None:
        """Take it away; nobody may have it open."""
        assert _ran("umount", str(self.path))


@contextmanager
def card(folder: Path) -> Iterator[Card]:
    """A mounted card; skips where it can't be made."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, path = folder / "card.img", folder / "state"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(CARD_MB << 20)
    made = Card(image, path)
    if not _ran("mkfs.ext4", "-q", str(image)) or not made.mount():
        pytest.skip("a file system can't be mounted from a file here: that takes root and a loop device")
    try:
        yield made
    finally:
        _ran("umount", "--lazy", str(path))


def _ran(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
