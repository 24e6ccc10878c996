"""What networks that are trained together make small.

``reds``: the mean of their cross-entropies, each weighted by the root of its share of the whole network (Corti et al.,
"REDS: Resource-Efficient Deep Subnetworks", 2023, section 3.3).

``distilled``: weighted alike, but half of what all but the largest learn from are the largest one's answers of that
moment (in-place distillation: Yu and Huang, "Universally slimmable networks and improved training techniques", ICCV
2019). All are trained in every step, the largest and the smallest always among them: their sandwich rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from fleetfoot.errors import UsageError, offer
from zoo.backend import keras
from zoo.batches import TEACHER_WEIGHT

JointLoss = Literal["reds", "distilled"]
JOINT_LOSSES: tuple[JointLoss, ...] = ("reds", "distilled")


class Together:
    """The loss of networks that are trained together.

    Args:
        sizes: of the networks, such as their parameters; the largest is the last.
        loss: of ``JOINT_LOSSES``.

    Raises:
        UsageError: an unknown loss.
    """

    def __init__(self, sizes: Sequence[float], loss: JointLoss) -> None:
        if loss not in JOINT_LOSSES:
            raise UsageError(f"there is no joint loss {loss!r}: {offer(loss, JOINT_LOSSES)}")
        roots = [math.sqrt(size) for size in sizes]
        self._weights = [root / sum(roots) for root in roots]
        self._distilled = loss == "distilled"

    def training(self, answers: Sequence[Any], targets: Any) -> Any:
        """What a step of training makes small.

        Args:
            answers: probabilities of shape (batch, classes), of each network.
            targets: of the same shape.
        """
        if not self._distilled:
            return self.plain(answers, targets)
        soft = keras.ops.stop_gradient(answers[-1])
        blended = TEACHER_WEIGHT * soft + (1 - TEACHER_WEIGHT) * targets
        return self._sum(answers, [*([blended] * (len(answers) - 1)), targets])

    def plain(self, answers: Sequence[Any], targets: Any) -> Any:
        """The weighted cross-entropies, by which the best epoch is told whatever is trained by."""
        return self._sum(answers, [targets] * len(answers))

    def _sum(self, answers: Sequence[Any], targets: Sequence[Any]) -> Any:
        return sum(
            weight * keras.ops.mean(keras.losses.categorical_crossentropy(target, answer))
            for weight, target, answer in zip(self._weights, targets, answers, strict=True)
        )
