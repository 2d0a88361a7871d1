"""The committed handwriting and models: where they are and how to read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
IMAGES = HERE / "data" / "digits.npz"
MODELS = {"onnx": HERE / "models" / "digits_int8.onnx", "tflite": HERE / "models" / "digits_int8.tflite"}
CLASSES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Pool:
    """Handwritten digits as the source publishes them.

    Attributes:
        images: ``uint8[n, 8, 8]``, ink coverage of each cell from 0 to 16.
        labels: ``uint8[n]``, the digit that was written.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)


def load_pool(name: str, path: Path = IMAGES) -> Pool:
    """Read one of the committed pools.

    Args:
        name: ``"reference"`` (what the baseline is made from) or ``"test"`` (what the demo feeds).
        path: The ``.npz`` file.

    Raises:
        KeyError: There is no pool of that name in the file.
    """
    with np.load(path, allow_pickle=False) as arrays:
        return Pool(arrays[f"{name}_images"], arrays[f"{name}_labels"])
