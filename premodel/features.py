"""What is cheap to know about a raw input, as TensorFlow functions.

Training and the compiled premodel compute the same functions, so that they cannot differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.backend import tf
from zoo.catalog import InputSpec

_THUMBNAIL_SIDE = 4
_BATCH = 256


def feature_names(spec: InputSpec) -> list[str]:
    """The names of the features, in the order in which ``compute`` gives them."""
    names = ["mean", "contrast", "minimum", "maximum"]
    names += [f"change_{axis}" for axis in range(_ordered_axes(spec))]
    if spec.kind == "image":
        height, width = _thumbnail_shape(spec)
        names += [f"thumbnail_{row}_{column}" for row in range(height) for column in range(width)]
    return names


def compute(x: Any, spec: InputSpec) -> Any:
    """The features of raw inputs.

    Args:
        x: a tensor of shape (examples, *spec.shape).
        spec: what the inputs are; values are first brought to 0 to 1.

    Returns:
        A tensor of shape (examples, features): mean, standard deviation, extremes, the mean absolute
        change along each ordered axis, and for images a thumbnail of mean brightness.
    """
    x = (tf.cast(x, tf.float32) - spec.minimum) / (spec.maximum - spec.minimum)
    flat = tf.reshape(x, [-1, int(np.prod(spec.shape))])
    mean = tf.reduce_mean(flat, axis=1, keepdims=True)
    contrast = tf.sqrt(tf.reduce_mean(tf.square(flat - mean), axis=1, keepdims=True))
    columns = [
        mean,
        contrast,
        tf.reduce_min(flat, axis=1, keepdims=True),
        tf.reduce_max(flat, axis=1, keepdims=True),
    ]
    columns += [_mean_change(x, axis, spec) for axis in range(_ordered_axes(spec))]
    if spec.kind == "image":
        columns.append(_thumbnail(x, spec))
    return tf.concat(columns, axis=1)


def compute_array(x: npt.NDArray[Any], spec: InputSpec) -> npt.NDArray[np.float32]:
    """The features of many raw inputs, as an array of shape (examples, features)."""
    batches = [compute(x[start : start + _BATCH], spec).numpy() for start in range(0, len(x), _BATCH)]
    return np.concatenate(batches)


def _ordered_axes(spec: InputSpec) -> int:
    """How many axes have an order, so that neighbours on them are alike: rows and columns, or time."""
    return 2 if spec.kind == "image" else 1


def _mean_change(x: Any, axis: int, spec: InputSpec) -> Any:
    size = spec.shape[axis]
    if size < 2:
        return tf.zeros_like(tf.reshape(x, [-1, int(np.prod(spec.shape))])[:, :1])
    # Slices rather than gathers: they convert to one cheap operator each.
    before, after = [slice(None)] * (len(spec.shape) + 1), [slice(None)] * (len(spec.shape) + 1)
    before[axis + 1], after[axis + 1] = slice(0, size - 1), slice(1, size)
    change = tf.abs(x[tuple(after)] - x[tuple(before)])
    return tf.reduce_mean(tf.reshape(change, [-1, int(np.prod(change.shape[1:]))]), axis=1, keepdims=True)


def _thumbnail_shape(spec: InputSpec) -> tuple[int, int]:
    return min(_THUMBNAIL_SIDE, spec.shape[0]), min(_THUMBNAIL_SIDE, spec.shape[1])


def _thumbnail(x: Any, spec: InputSpec) -> Any:
    height, width = _thumbnail_shape(spec)
    pool = [spec.shape[0] // height, spec.shape[1] // width]
    grey = tf.reduce_mean(x, axis=3, keepdims=True)[:, : pool[0] * height, : pool[1] * width]
    return tf.reshape(tf.nn.avg_pool2d(grey, pool, pool, "VALID"), [-1, height * width])
