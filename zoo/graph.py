"""A functional network as the sequence of its layers' calls, and rebuilding it with other layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from fleetfoot.errors import ModelError, first_line
from zoo.backend import keras

_NOTHING_BUT_TRAINING = (
    keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D, keras.layers.AlphaDropout, keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)  # fmt: skip
"""Layers that hand on their input as it is, but while a network is trained."""


class Call(NamedTuple):
    """One call of a layer: what it reads and what it makes, as symbolic tensors."""

    layer: Any
    inputs: list[Any]
    outputs: list[Any]


def calls(model: Any, shortcuts: Mapping[int, Any] | None = None) -> Iterator[Call]:
    """The calls of a functional model's layers, producers before consumers; the inputs are calls without inputs.

    With shortcuts, those that ``rebuild`` would make with them.
    """
    graph = _graph(model)
    for node in _leading_to_outputs(graph, shortcuts) if shortcuts else _nodes(graph):
        yield Call(node.operation, node.input_tensors, node.output_tensors)


def rebuild(
    model: Any,
    new_layer: Callable[[Any], Any],
    call: Callable[..., Any] = lambda layer, *args, **kwargs: layer(*args, **kwargs),
    shortcuts: Mapping[int, Any] | None = None,
) -> Any:
    """Builds the network again from ``new_layer(layer)`` for each layer, with fresh weights.

    Args:
        model: a functional model.
        new_layer: makes the layer that takes the place of one, once however often that is called.
        call: ``call(new layer, *args, **kwargs)`` calls it and may put other layers before or after it.
        shortcuts: for the ids of some of the network's tensors, another of its tensors, which they are computed
            from: what read the former reads the latter, and what led to the former alone is not built.

    Returns:
        A functional model whose inputs and outputs have the structure, shapes, types and names of the old ones.
    """
    graph = _graph(model)
    made: dict[int, Any] = {}

    def call_new(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = new_layer(layer)
        return call(made[id(layer)], *args, **kwargs)

    inputs = _new_inputs(graph)
    outputs = _trace(graph, keras.tree.flatten(inputs), call_new, shortcuts)
    return keras.Model(inputs, outputs, name=model.name)


def inlined(model: Any) -> Any:
    """The network with the layers of the models inside it in their place, as one flat functional model.

    A layer keeps its name, preceded by the names of the models that it was in where another has the same. What was
    called with ``training=False`` stays as it is while the network is trained: its batch norms are frozen, and what
    acts in training only is left out. Subclassed models have no layers to show, and stay.

    Args:
        model: a functional or sequential model.

    Returns:
        A new model that computes the same with weights of its own; ``model`` itself if there is none inside it.

    Raises:
        ModelError: a layer that Keras cannot make anew.
    """
    if not any(_is_nested(call.layer) for call in calls(model)):
        return model
    places = _places(model)
    names = _flat_names(list(places.values()))
    made: dict[int, Any] = {}

    def call_flat(held: bool | None, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_nested(layer):
            return call_inside(held, layer, *args, **kwargs)
        if held is False and isinstance(layer, _NOTHING_BUT_TRAINING):
            return args[0]
        if id(layer) not in made:
            made[id(layer)] = _taken_out(places[id(layer)], names[id(layer)])
        if held is not None and getattr(layer, "_call_has_training_arg", False):
            kwargs["training"] = held
        if held is False and isinstance(layer, keras.layers.BatchNormalization):
            made[id(layer)].trainable = False  # because Keras overrules the argument when it trains the whole
        return made[id(layer)](*args, **kwargs)

    def call_inside(held: bool | None, nested: Any, inputs: Any, training: bool | None = None, **_: Any) -> Any:
        graph = _graph(nested)
        return _trace(graph, _as_inputs(graph, inputs), partial(call_flat, training if held is None else held))

    graph = _graph(model)
    inputs = _new_inputs(graph)
    outputs = _trace(graph, keras.tree.flatten(inputs), partial(call_flat, None))
    for place in places.values():
        if getattr(place.layer, "weights", None) and id(place.layer) in made:
            set_weights(made[id(place.layer)], place.layer.get_weights())
    return keras.Model(inputs, outputs, name=model.name)


class _Place(NamedTuple):
    """Where a layer is: in which models inside the network, the outermost first."""

    layer: Any
    models: tuple[Any, ...]


def _places(model: Any, models: tuple[Any, ...] = ()) -> dict[int, _Place]:
    """All layers of a network and of the models inside it, but their inputs; one in several places in its first."""
    places: dict[int, _Place] = {}
    for call in calls(model):
        if _is_nested(call.layer):
            places = _places(call.layer, (*models, call.layer)) | places
        elif call.inputs or not models:
            places.setdefault(id(call.layer), _Place(call.layer, models))
    return places


def _flat_names(places: Sequence[_Place]) -> dict[int, str]:
    """For the id of each layer, a name that no other has."""
    own = Counter(place.layer.name for place in places)
    taken = {place.layer.name for place in places if not place.models or own[place.layer.name] == 1}
    names = {}
    for layer, models in places:
        name = layer.name
        if models and own[name] > 1:
            name = free_name("_".join([*(model.name for model in models), name]), taken)
            taken.add(name)
        names[id(layer)] = name
    return names


def _taken_out(place: _Place, name: str) -> Any:
    """A new layer like one, of that name, frozen where a model that it was in is."""
    layer, models = place
    new = copy_layer(layer) if name == layer.name else copy_layer(layer, name=name)
    if not all(model.trainable for model in models):
        new.trainable = False
    return new


def _graph(model: Any) -> Any:
    """The functional model that a model is, or that a Sequential has inside.

    Raises:
        ModelError: it has no graph of layers, as a subclassed model or one that was not built yet.
    """
    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_nodes_by_depth"):
        raise ModelError(
            f"{getattr(model, 'name', model)} has no layers that can be seen: make it a functional model, or a "
            "Sequential that begins with an Input"
        )
    return graph


def _is_nested(layer: Any) -> bool:
    """Whether a layer is a model that does nothing but call layers that can be seen."""
    functional = keras.src.models.functional.Functional
    if isinstance(layer, keras.Sequential):
        return layer._functional is not None and type(layer).call is keras.Sequential.call
    return isinstance(layer, functional) and type(layer).call is functional.call


def _nodes(graph: Any) -> list[Any]:
    """The calls of a functional model as Keras keeps them, producers before consumers."""
    return [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]]


def _new_inputs(graph: Any) -> Any:
    """Inputs like those of a functional model, in the same structure."""
    return keras.tree.map_structure(lambda tensor: copy_layer(tensor._keras_history.operation).output, graph.input)


def _as_inputs(graph: Any, inputs: Any) -> list[Any]:
    """What a functional model makes of the tensors that it is called on: in its order, of its types and ranks."""
    if isinstance(inputs, dict) and not isinstance(graph.input, dict):
        inputs = [inputs[tensor.name] for tensor in graph.inputs]
    given = keras.tree.flatten(inputs)
    typed = [
        tensor if tensor.dtype == wanted.dtype else keras.ops.cast(tensor, wanted.dtype)
        for tensor, wanted in zip(given, graph.inputs, strict=True)
    ]
    return list(graph._adjust_input_rank(typed))


def _trace(
    graph: Any, inputs: Sequence[Any], call: Callable[..., Any], shortcuts: Mapping[int, Any] | None = None
) -> Any:
    """Calls ``call(layer, *args, **kwargs)`` for each call that leads to the outputs, on new tensors.

    Returns:
        The new outputs, in the structure of the old ones.
    """
    shortcuts = shortcuts or {}
    new = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for node in _leading_to_outputs(graph, shortcuts):
        if node.is_input:
            continue
        read = {id(tensor): new[id(_source(tensor, shortcuts))] for tensor in node.input_tensors}
        args, kwargs = node.arguments.fill_in(read)
        outputs = keras.tree.flatten(call(node.operation, *args, **kwargs))
        new |= {id(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)}
    return keras.tree.map_structure(lambda tensor: new[id(_source(tensor, shortcuts))], graph.output)


def _leading_to_outputs(graph: Any, shortcuts: Mapping[int, Any]) -> list[Any]:
    """Those of a functional model's calls that its outputs need, producers before consumers."""
    producers = {id(tensor): node for node in _nodes(graph) for tensor in node.outputs}
    wanted, found = list(graph.outputs), set()
    while wanted:
        node = producers[id(_source(wanted.pop(), shortcuts))]
        if node not in found:
            found.add(node)
            wanted += node.input_tensors
    return [node for node in _nodes(graph) if node in found]


def _source(tensor: Any, shortcuts: Mapping[int, Any]) -> Any:
    """What is read instead of a tensor."""
    while id(tensor) in shortcuts:
        tensor = shortcuts[id(tensor)]
    return tensor


def set_weights(layer: Any, weights: Sequence[Any]) -> None:
    """Gives a layer its weights; one that computes with what it makes of them, as Normalization does, makes it anew."""
    layer.set_weights(weights)
    for part in layer._flatten_layers():
        if hasattr(part, "finalize_state"):
            part.finalize_state()


def copy_weights(source: Any, target: Any) -> None:
    """Gives the layers of a network the weights of those of the same name in another, which may have more."""
    for layer in target.layers:
        if layer.weights:
            set_weights(layer, source.get_layer(layer.name).get_weights())


def compute_in(model: Any, dtype: Callable[[Any], str]) -> Any:
    """The network with each layer computing in the type, or by the policy, that ``dtype`` says of it."""

    def new_layer(layer: Any) -> Any:
        return copy_layer(layer, dtype=dtype(layer)) if isinstance(layer, keras.layers.Layer) else copy_layer(layer)

    changed = rebuild(model, new_layer)
    copy_weights(model, changed)
    return changed


def copy_layer(layer: Any, **changes: Any) -> Any:
    """A new layer of the same type, name and configuration, but for ``changes``.

    Raises:
        ModelError: its configuration does not say how to make it.
    """
    try:
        return type(layer).from_config(layer.get_config() | changes)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"layer {layer.name} cannot be made anew: give {type(layer).__name__} a get_config that says what its "
            f"constructor takes ({first_line(error)})"
        ) from error


def free_name(name: str, taken: Container[str]) -> str:
    """A name that is not taken: this one, or followed by as many underscores as it needs."""
    while name in taken:
        name += "_"
    return name


def apply_layers(model: Any, tensor: Any) -> Any:
    """Calls a functional model's layers, not the model as one, on a symbolic tensor; weights are shared."""
    (output,) = keras.tree.flatten(model._run_through_graph(tensor, operation_fn=lambda operation: operation))
    return output
