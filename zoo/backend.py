"""TensorFlow and Keras, imported without their chatter; every module that builds takes them from here."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

from fleetfoot.silence import silenced

with silenced():
    import keras
    import tensorflow as tf

tf.get_logger().setLevel("ERROR")  # its warnings are about speed in ways that do not matter here

__all__ = ["keras", "make_deterministic", "tf"]


def make_deterministic(seed: int) -> None:
    """Makes all that follows depend on ``seed`` alone: initial weights, shuffling, dropout, sums."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
