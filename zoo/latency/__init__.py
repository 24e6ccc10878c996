"""What a network costs in milliseconds on a device, as a function of its channel groups' widths.

No slice is built or exported for it: a network is the operators that LiteRT's converter makes of it (``lowering``),
whose shapes follow from the kept channels (``sizes``), and each operator that some widths ask for is timed once, as a
model of its own (``prices``). What the network takes is their sum and that of the call (``widths``).
"""

from zoo.latency.calibration import MOST_CACHED_BYTES, calibrate
from zoo.latency.lowering import Lowering, operators_of
from zoo.latency.prices import MeasuredPrices, PredictedPrices, Prices, prices_of
from zoo.latency.widths import WidthGrid, WidthTimes, fast_widths, worth_having

__all__ = [
    "MOST_CACHED_BYTES",
    "Lowering",
    "MeasuredPrices",
    "PredictedPrices",
    "Prices",
    "WidthGrid",
    "WidthTimes",
    "calibrate",
    "fast_widths",
    "operators_of",
    "prices_of",
    "worth_having",
]
