"""Networks for microcontrollers: int8 from end to end, with a plan of their memory, and as C source.

A file is made of one that LiteRT runs: its graph is cut out, floats at its ends and between its integers are taken
away (``network``), its activations are given their places in memory (``plan``), and it is packed (``packing``).
"""

from zoo.microcontroller.integers import IntegerModel, integers_only
from zoo.microcontroller.network import Quantization
from zoo.microcontroller.source import HEADER, Member
from zoo.microcontroller.writing import Source, export_zoo, write_microcontroller, write_networks, zoo_sources

__all__ = [
    "HEADER",
    "IntegerModel",
    "Member",
    "Quantization",
    "Source",
    "export_zoo",
    "integers_only",
    "write_microcontroller",
    "write_networks",
    "zoo_sources",
]
