"""Reading trained networks in the formats that people have them in."""

from __future__ import annotations

import base64
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fleetfoot.errors import ModelError, first_line
from fleetfoot.modules import call_theirs, function_from_here, import_from_here
from fleetfoot.silence import silenced
from zoo.backend import keras, tf

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_UNKNOWN_LAYER = re.compile(r"Could not locate class '([^']+)'|Unknown layer: '([^']+)'")


def read_network(path: Path) -> Any:
    """Reads a trained network; what kind of file it is, its content says.

    Raises:
        ModelError: the file is missing, damaged, of a newer Keras, or needs layers that are not known here.
    """
    if path.is_dir():
        return _read_saved_model(path)
    try:
        with path.open("rb") as file:
            magic = file.read(len(_HDF5_MAGIC))
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    if magic == _HDF5_MAGIC:
        return _read_hdf5(path)
    if magic.startswith(_ZIP_MAGIC):
        return _read_keras(path)
    raise ModelError(f"{path} is no Keras model: neither a .keras archive nor HDF5; a SavedModel is a directory")


def call_builder(name: str) -> Any:
    """The network that a function of no arguments returns, named ``package.module:function``.

    Raises:
        UsageError: no such function.
        ModelError: it raises, or returns something else.
    """
    network = call_theirs(name, function_from_here(name), ModelError)
    if not isinstance(network, keras.Model):
        raise ModelError(f"{name}() returned a {type(network).__name__}, and must return a Keras model")
    return network


def register_custom_objects(module: str) -> None:
    """Imports the module that registers somebody's own layers.

    Raises:
        UsageError: it cannot be imported.
    """
    import_from_here(module)


def _read_keras(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            saved_by = str(dict(json.loads(archive.read("metadata.json"))).get("keras_version", ""))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if _major(saved_by) > _major(keras.__version__):
        raise ModelError(f"{path} was saved by Keras {saved_by}, and this is {keras.__version__}: upgrade keras")
    return _explained(path, lambda: keras.saving.load_model(path, compile=False))


def _read_hdf5(path: Path) -> Any:
    """Reads Keras's HDF5 format, whatever the file's suffix, and what Keras 2 wrote in it that Keras 3 refuses."""
    from keras.src.legacy.saving.legacy_h5_format import load_model_from_hdf5

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about arguments that Keras 2 called otherwise
        return _explained(path, lambda: load_model_from_hdf5(str(path), _KERAS_2_LAYERS, compile=False))


def _explained(path: Path, load: Callable[[], Any]) -> Any:
    """Loads, and says in one line what stood in the way."""
    try:
        return load()
    except Exception as error:  # Keras raises whatever went wrong inside
        unknown = _UNKNOWN_LAYER.search(str(error))
        if unknown:
            name = unknown[1] or unknown[2]
            raise ModelError(
                f"{path} has the custom layer {name}: decorate its class with "
                "keras.saving.register_keras_serializable and name its module with --custom-objects"
            ) from None
        if "Lambda" in str(error):
            raise ModelError(
                f"{path} has a Lambda layer, whose code a file may not bring: replace it by a layer of its own class, "
                "decorated with keras.saving.register_keras_serializable, and name its module with --custom-objects"
            ) from None
        raise ModelError(f"{path} cannot be loaded as a Keras model: {first_line(error)}") from None


def _major(version: str) -> int:
    return int(version.split(".")[0]) if version[:1].isdigit() else 0


class _DepthwiseConv2D:
    """Reads a Keras 2 configuration, which names the ``groups`` that a depthwise convolution cannot have."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        return keras.layers.DepthwiseConv2D.from_config({k: v for k, v in config.items() if k != "groups"})


class _LeakyReLU:
    """Reads a Keras 2 configuration, where the slope is called ``alpha``."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        renamed = {"negative_slope" if key == "alpha" else key: value for key, value in config.items()}
        return keras.layers.LeakyReLU.from_config(renamed)


_KERAS_2_LAYERS = {"DepthwiseConv2D": _DepthwiseConv2D, "LeakyReLU": _LeakyReLU}


def _read_saved_model(path: Path) -> Any:
    """A SavedModel as a network of one layer, which can be exported and quantised but not cut."""
    if not (path / "saved_model.pb").exists():
        raise ModelError(f"{path} is a directory without saved_model.pb: it is no SavedModel")
    v1 = tf.compat.v1
    graph = tf.Graph()
    try:
        with silenced(), graph.as_default(), v1.Session() as session:
            signatures = v1.saved_model.loader.load(session, ["serve"], str(path)).signature_def
            if "serving_default" not in signatures:
                raise ModelError(f"{path} has no signature serving_default")
            inputs, outputs = signatures["serving_default"].inputs, signatures["serving_default"].outputs
            if len(inputs) != 1 or len(outputs) != 1:
                raise ModelError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
            (source,), (answer,) = inputs.values(), outputs.values()
            frozen = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), [answer.name.split(":")[0]]
            )
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} cannot be loaded as a SavedModel: {first_line(error)}") from None
    _drop_unused_functions(frozen)
    batch, *shape = [None if size.size < 0 else size.size for size in source.tensor_shape.dim]
    if batch is not None:
        raise ModelError(f"{path} takes {batch} inputs at a time: export it for a batch of any size")
    classes = answer.tensor_shape.dim[-1].size
    graph_text = base64.b64encode(frozen.SerializeToString()).decode()
    network_input = keras.Input(shape, dtype=tf.as_dtype(source.dtype).name, name="input")
    output = FrozenGraph(graph_text, source.name, answer.name, classes, name="saved_model")(network_input)
    return keras.Model(network_input, output, name=path.name)


def _drop_unused_functions(graph: Any) -> None:
    """Removes the functions that no node calls; the converter stumbles over those whose callees are gone."""
    functions = {function.signature.name: function for function in graph.library.function}
    used: set[str] = set()
    wanted = _called(graph.node)
    while wanted:
        used |= wanted
        wanted = {name for known in wanted & functions.keys() for name in _called(functions[known].node_def)} - used
    kept = [function for name, function in functions.items() if name in used]
    del graph.library.function[:]
    graph.library.function.extend(kept)


def _called(nodes: Any) -> set[str]:
    return {value.func.name for node in nodes for value in node.attr.values() if value.HasField("func")}


@keras.saving.register_keras_serializable(package="fleetfoot")
class FrozenGraph(keras.layers.Layer):  # type: ignore[misc]
    """A TensorFlow graph whose weights are constants, as a layer without weights.

    Args:
        graph: the serialised GraphDef in base 64, so that the layer can be saved with a model.
        source: the name of its input tensor.
        answer: the name of its output tensor.
        classes: how many classes it answers for.
    """

    def __init__(self, graph: str, source: str, answer: str, classes: int, **options: Any) -> None:
        super().__init__(**options)
        self._config = {"graph": graph, "source": source, "answer": answer, "classes": classes}
        definition = tf.compat.v1.GraphDef.FromString(base64.b64decode(graph))
        wrapped = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(definition, name=""), [])
        self._function = wrapped.prune(wrapped.graph.as_graph_element(source), wrapped.graph.as_graph_element(answer))

    def call(self, inputs: Any) -> Any:
        """What the graph answers."""
        return tf.ensure_shape(self._function(inputs), [None, self._config["classes"]])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Batch and classes."""
        return (input_shape[0], self._config["classes"])

    def get_config(self) -> dict[str, Any]:
        """The graph and the names of its ends."""
        return {**super().get_config(), **self._config}
