"""Record what a healthy camera shows its model, for a bundle made by hand.

    python examples/digits/record_reference.py onnx reference.npz

The file holds 20 minutes of frames in time order as the array `image`, in the model's own layout, and what
was written on each as `digit`.
"""

import sys
from pathlib import Path

from digits import MODELS
from fleet import write_reference

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
        sys.exit(f"usage: record_reference.py {'|'.join(MODELS)} FILE.npz")
    write_reference(sys.argv[1], Path(sys.argv[2]))
