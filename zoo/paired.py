"""Comparing two networks by their answers to the same inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def sure_gain(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    """How much more often answers are right than others were, at the least: the difference less two standard errors.

    Args:
        before: whether the answer to each input was right.
        after: whether it is now.
    """
    differences = after.astype(float) - before.astype(float)
    return float(differences.mean() - 2 * differences.std() / np.sqrt(len(differences)))
