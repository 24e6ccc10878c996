"""Handwritten digits from scikit-learn: 1,797 scans, 8×8 pixels of 0 to 16, inside the package."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions


def read(_argument: str, _options: ReadOptions) -> Dataset:
    """The digits."""
    digits = load_digits()
    return Dataset(
        name="digits",
        x=digits.images.astype(np.float32)[..., np.newaxis],
        y=digits.target.astype(np.int64),
        classes=tuple(str(name) for name in digits.target_names),
        input=InputSpec(kind="image", shape=(8, 8, 1), dtype="float32", minimum=0.0, maximum=16.0),
    )
