"""The finished zoo's tables, as training sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from zoo.catalog import Zoo
from zoo.outcomes import Outcomes


class Route(NamedTuple):
    """The route split: input ids, features (inputs, features) and whether each variant was right."""

    inputs: list[str]
    features: np.ndarray[Any, Any]
    correct: np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def route(finished_zoo: Path) -> Route:
    """The route split of the finished zoo, variants in the zoo's order."""
    outcomes = Outcomes.read(finished_zoo / Outcomes.FILE)
    correct = outcomes.matrix("correct", "route", list(Zoo.open(finished_zoo).variants))
    features = pd.read_parquet(finished_zoo / "features.parquet").loc[correct.index]
    return Route(list(correct.index), features.to_numpy(np.float64), correct.to_numpy(bool))
