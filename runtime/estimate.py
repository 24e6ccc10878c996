"""The compiled premodel: for an input, the probability that each variant is right."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy.typing as npt

from premodel.plan import ESTIMATE_FILE, ESTIMATE_SIGNATURE, Plan, Stage
from profiling.invoke import Model
from zoo.catalog import Zoo


class Estimate:
    """``estimate.tflite``, open and warm, and what asking it costs on this device; safe to be called from threads."""

    def __init__(self, zoo: Zoo, plan: Plan, stage: Stage) -> None:
        self._cost = stage
        self._variants = tuple(plan.variants)
        self._run = Model(zoo.path / ESTIMATE_FILE).runner(ESTIMATE_SIGNATURE)
        self._run.warm_up()
        self._lock = threading.Lock()

    def planned_ms(self, deviations: float) -> float:
        """The latency that asking is granted, when the device is as fast as its profile."""
        return self._cost.mean_ms + deviations * math.sqrt(self._cost.variance)

    def p_right(self, x: npt.NDArray[Any]) -> dict[str, float]:
        """The probability per variant, for a checked input of shape (1, …)."""
        with self._lock:
            probabilities = self._run(x)[0].tolist()
        return dict(zip(self._variants, probabilities, strict=True))
