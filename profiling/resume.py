"""Running networks that can be continued: signatures that also return features, and signatures that take them.

``ID/begin`` answers to an input as ``ID`` does and returns what a deeper network can go on from; ``ID/go-on`` goes on
from what the network before it returned, so that it costs only what is new.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ModelError, first_line
from profiling.invoke import Model

BEGIN, GO_ON = "begin", "go-on"
FEATURES = "features"

Array = npt.NDArray[Any]


class Reached(NamedTuple):
    """How far an input has come: the probabilities there, and the features to go on from, None at the end."""

    probabilities: Array
    features: Array | None


class Step:
    """A signature that begins or goes on.

    LiteRT's own signature runner makes ready for an input of another size each time, which takes as long as a few
    per cent of a small network; this one does so once.

    Args:
        model: the open model, which runs one signature at a time.
        signature: one of its signatures, of one input.

    Raises:
        ModelError: no such signature, or one that does not return one answer and at most features.
    """

    def __init__(self, model: Model, signature: str) -> None:
        run = model._signature_runner(signature)
        inputs = run.get_input_details()
        outputs = {name: detail["index"] for name, detail in run.get_output_details().items()}
        self._features = outputs.pop(FEATURES, None)
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"the signature {signature!r} takes or returns more than one can begin or go on with")
        ((name, detail),) = inputs.items()
        (self._answer,) = outputs.values()
        self._input, self._dtype = detail["index"], np.dtype(detail["dtype"])
        self._run = run  # which the model lives by
        self._interpreter, self._subgraph = run._interpreter_wrapper, run._subgraph_index
        run(**{name: np.zeros(detail["shape"], self._dtype)})

    def __call__(self, x: Array) -> Reached:
        """Runs a raw input, or the features that the step before returned; what it returns are copies.

        Raises:
            ModelError: an array of another shape than the signature takes.
        """
        try:
            self._interpreter.SetTensor(self._input, x.astype(self._dtype, copy=False), self._subgraph)
        except ValueError as error:
            raise ModelError(f"the step cannot take an array of shape {x.shape}: {first_line(error)}") from None
        self._interpreter.Invoke(self._subgraph)
        features = None if self._features is None else self._get(self._features)
        return Reached(self._get(self._answer), features)

    def _get(self, tensor: int) -> Array:
        value: Array = self._interpreter.GetTensor(tensor, self._subgraph)
        return value
