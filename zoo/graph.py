"""A functional network as the sequence of its layers' calls, and rebuilding it with other layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from zoo.backend import keras


class Call(NamedTuple):
    """One call of a layer: what it reads and what it makes, as symbolic tensors."""

    layer: Any
    inputs: list[Any]
    outputs: list[Any]


def calls(model: Any) -> Iterator[Call]:
    """The calls of a functional model's layers, producers before consumers; the inputs are calls without inputs."""
    model = getattr(model, "_functional", None) or model  # that of a Sequential
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            yield Call(node.operation, node.input_tensors, node.output_tensors)


def rebuild(
    model: Any,
    new_layer: Callable[[Any], Any],
    call: Callable[..., Any] = lambda layer, *args, **kwargs: layer(*args, **kwargs),
) -> Any:
    """Builds the network again from ``new_layer(layer)`` for each layer, with fresh weights.

    ``call(new layer, *args, **kwargs)`` calls it and may put other layers before or after it.
    """
    return keras.models.clone_model(model, clone_function=new_layer, call_function=call)


def set_weights(layer: Any, weights: Sequence[Any]) -> None:
    """Gives a layer its weights; one that computes with what it makes of them, as Normalization does, makes it anew."""
    layer.set_weights(weights)
    for part in layer._flatten_layers():
        if hasattr(part, "finalize_state"):
            part.finalize_state()


def copy_weights(source: Any, target: Any) -> None:
    """Gives the layers of a network the weights of those of the same name in another."""
    for layer in source.layers:
        if layer.weights:
            set_weights(target.get_layer(layer.name), layer.get_weights())


def compute_in(model: Any, dtype: Callable[[Any], str]) -> Any:
    """The network with each layer computing in the type, or by the policy, that ``dtype`` says of it."""

    def new_layer(layer: Any) -> Any:
        return copy_layer(layer, dtype=dtype(layer)) if isinstance(layer, keras.layers.Layer) else copy_layer(layer)

    changed = rebuild(model, new_layer)
    copy_weights(model, changed)
    return changed


def copy_layer(layer: Any, **changes: Any) -> Any:
    """A new layer of the same type, name and configuration, but for ``changes``."""
    return type(layer).from_config(layer.get_config() | changes)


def apply_layers(model: Any, tensor: Any) -> Any:
    """Calls a functional model's layers, not the model as one, on a symbolic tensor; weights are shared."""
    (output,) = keras.tree.flatten(model._run_through_graph(tensor, operation_fn=lambda operation: operation))
    return output
