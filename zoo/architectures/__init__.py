"""Built-in base networks: by name, each builds an untrained network for given inputs and classes."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.architectures.alexnet import alexnet
from zoo.architectures.architecture import Architecture, Kind, Parameter
from zoo.architectures.digits import digits_cnn
from zoo.architectures.keywords import SIZES, cnn, dnn, ds_cnn
from zoo.architectures.lenet import lenet5
from zoo.architectures.mobilenet import mobilenet_v1, mobilenet_v2, mobilenet_v3_small
from zoo.architectures.resnet import resnet, resnet8
from zoo.architectures.shufflenet import shufflenet
from zoo.architectures.squeezenet import squeezenet
from zoo.architectures.vgg import vgg16

__all__ = ["ARCHITECTURES", "DEFAULT_ARCHITECTURE", "Architecture", "Parameter", "digits_cnn"]

_IMAGE: tuple[Kind, ...] = ("image",)
_ANY: tuple[Kind, ...] = ("image", "audio", "tensor")

_SHARE = Parameter((0.25, 0.5, 0.75, 1.0), 1.0, between=True)
_RESOLUTION = Parameter((0.572, 0.715, 0.858, 1.0), 1.0, between=True)
_BASE_WIDTH = Parameter((8, 16, 24, 32, 48, 64), 16, between=True)
_DEPTH = Parameter((8, 14, 20, 32, 44, 56, 110), 20)
_YES_OR_NO = Parameter((False, True), True)
_KEYWORDS = {"size": Parameter(SIZES, "S"), "features": Parameter(("mfcc", "log-mel"), "mfcc", kinds=("audio",))}
_SCALED = {"width": _SHARE, "resolution": _RESOLUTION}

ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "digits-cnn",
            digits_cnn,
            _IMAGE,
            {"width": Parameter((16, 32, 64, 96, 128, 176, 256), 176, between=True)},
        ),
        Architecture("lenet-5", lenet5, _IMAGE, {"form": Parameter(("classic", "relu"), "classic")}),
        Architecture("resnet-8", resnet8, _IMAGE, {"width": _BASE_WIDTH, "resolution": _RESOLUTION}),
        Architecture("resnet-20", resnet, _IMAGE, {"depth": _DEPTH, "width": _BASE_WIDTH, "resolution": _RESOLUTION}),
        Architecture("dnn", dnn, _ANY, _KEYWORDS),
        Architecture("cnn", cnn, ("image", "audio"), _KEYWORDS),
        Architecture("ds-cnn", ds_cnn, ("image", "audio"), _KEYWORDS),
        Architecture("mobilenet-v1", mobilenet_v1, _IMAGE, {**_SCALED, "depth_multiplier": Parameter((1, 2), 1)}),
        Architecture("mobilenet-v2", mobilenet_v2, _IMAGE, _SCALED),
        Architecture("mobilenet-v3-small", mobilenet_v3_small, _IMAGE, _SCALED),
        Architecture(
            "squeezenet",
            squeezenet,
            _IMAGE,
            {
                "base_expand": Parameter((32, 64, 128), 128, between=True),
                "expansion_increment": Parameter((0, 32, 64, 128), 128, between=True),
                "expansion_filter_ratio": Parameter((0.25, 0.5, 0.75), 0.5, between=True),
                "filter_expansion_freq": Parameter((1, 2, 4), 2),
                "squeeze_ratio": Parameter((0.125, 0.25, 0.5), 0.125, between=True),
                "normalize": _YES_OR_NO,
                "resolution": _RESOLUTION,
            },
        ),
        Architecture(
            "shufflenet",
            shufflenet,
            _IMAGE,
            {
                "groups": Parameter((1, 2, 3, 4, 8), 3),
                "complexity": Parameter((0.25, 0.5, 1.0), 1.0, between=True),
                "resolution": _RESOLUTION,
            },
        ),
        Architecture("alexnet", alexnet, _IMAGE, {**_SCALED, "normalize": _YES_OR_NO}),
        Architecture("vgg-16", vgg16, _IMAGE, {**_SCALED, "normalize": _YES_OR_NO}),
    )
}
"""The built-in networks by name."""

DEFAULT_ARCHITECTURE: Mapping[str, str] = {
    "digits": "digits-cnn",
    "image": "resnet-20",
    "audio": "ds-cnn",
    "tensor": "dnn",
}
"""The built-in network for each dataset that has one of its own, and for each kind of input."""
