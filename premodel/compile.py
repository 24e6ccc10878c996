"""The premodel as one LiteRT file of built-in operators: raw input in, probability per variant out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fleetfoot.files import write_bytes
from premodel.estimators import LinearEstimator
from premodel.features import compute
from premodel.plan import ESTIMATE_SIGNATURE
from zoo.backend import tf
from zoo.catalog import InputSpec
from zoo.export import Endpoint, convert


def compile_linear(estimator: LinearEstimator, spec: InputSpec, path: Path) -> None:
    """Writes features and estimator as ``path``, with the signature ``estimate``.

    Raises:
        ExportError: the converter refuses.
    """
    weights, bias = (tf.constant(values, tf.float32) for values in (estimator.weights, estimator.bias))

    def estimate(x: Any) -> dict[str, Any]:
        return {"p_right": tf.sigmoid(tf.matmul(compute(x, spec), weights) + bias)}

    input_spec = tf.TensorSpec([1, *spec.shape], np.dtype(spec.dtype), name="input")
    write_bytes(path, convert({ESTIMATE_SIGNATURE: Endpoint(estimate, input_spec)}))
