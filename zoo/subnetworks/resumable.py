"""Networks that can be continued, as the signatures of one LiteRT file.

Of a row of networks, each of which goes on from features of the one before it, the file has for every id

- ``ID``: raw input → probabilities,
- ``ID/begin``, but for the last: raw input → probabilities and features,
- ``ID/go-on``, but for the first: features of the one before → probabilities, and features but for the last.

The weights that they share are in it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from profiling.resume import BEGIN, FEATURES, GO_ON
from zoo.backend import keras, tf
from zoo.export import INPUT, OUTPUT, Endpoint, convert


def resumable(networks: Mapping[str, Any], features: Sequence[Any]) -> bytes:
    """Converts a row of networks to one LiteRT model.

    Args:
        networks: from raw input to probabilities, by id, in the order in which they continue each other.
        features: for each but the last, the symbolic tensor that the next one goes on from.

    Raises:
        ExportError: the converter refuses.
    """
    parts = dict(_parts(networks, features))
    endpoints = {signature: _endpoint(part, signature) for signature, part in parts.items()}
    return convert(endpoints, list(parts.values()))


def _parts(networks: Mapping[str, Any], features: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """For each signature what it computes, as a network that shares its layers with the others."""
    before = None
    for (name, network), handed_on in zip_longest(networks.items(), features):
        answer = {OUTPUT: network.outputs[0]}
        reached = answer if handed_on is None else answer | {FEATURES: handed_on}
        yield name, keras.Model(network.inputs[0], answer)
        if handed_on is not None:
            yield f"{name}/{BEGIN}", keras.Model(network.inputs[0], reached)
        if before is not None:
            yield f"{name}/{GO_ON}", keras.Model(before, reached)
        before = handed_on


def _endpoint(part: Any, signature: str) -> Endpoint:
    (spec,) = part.inputs
    name = FEATURES if signature.endswith(f"/{GO_ON}") else INPUT
    return Endpoint(
        lambda x: part(x, training=False),
        tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=name),
    )
