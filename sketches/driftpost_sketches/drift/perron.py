"""The principal eigenvalue and eigenvector of positive matrices, many at once (Perron and Frobenius)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_SQUARINGS = 10  # K^1024: beyond the memory of any chain whose correlation time the reference can show


def principal(matrices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Largest eigenvalue and its positive right eigenvector of positive matrices.

    Args:
        matrices: float64[Q, CELLS, CELLS].

    Returns:
        float64[Q] and float64[Q, CELLS].
    """
    power = matrices / matrices.sum(2).max(1)[:, None, None]
    for _ in range(_SQUARINGS):
        power = power @ power
        power /= power.sum(2).max(1)[:, None, None]
    vectors = power.sum(2)
    vectors = np.maximum(vectors / vectors.max(1)[:, None], 1e-12)
    image = np.einsum("qij,qj->qi", matrices, vectors)
    # The largest ratio bounds the eigenvalue from above (Collatz-Wielandt): an error can only cost evidence.
    return (image / vectors).max(1), vectors
