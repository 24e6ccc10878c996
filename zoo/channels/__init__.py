"""Channel groups: which channels of a network must be cut or reordered together, and doing so.

Every layer that makes channels (a convolution, a dense layer) gives each of them a label, and the labels travel along
the network (``flow``): what a layer does to them says its rule (``rules``). A sum ties the labels of its arms to each
other; labels that are tied are one *channel*, and channels that the same layers make are one *group* (``groups``).
What reaches the output, or a layer without a rule, is fixed. To cut a network is to keep, of every weight, the
positions whose labels stay (``slicing``); what is left can be counted before it is built (``counting``).
"""

from zoo.channels.analysis import (
    Channels,
    Keep,
    Place,
    analyse,
    can_be_cut,
    channel_groups,
    cuttable_groups,
    indices_of,
)
from zoo.channels.counting import Counter
from zoo.channels.flow import Flow, Labels, Mask
from zoo.channels.groups import ChannelGroup
from zoo.channels.rules import rule
from zoo.channels.slicing import kept_positions, permute_model, slice_model, take

__all__ = [
    "ChannelGroup",
    "Channels",
    "Counter",
    "Flow",
    "Keep",
    "Labels",
    "Mask",
    "Place",
    "analyse",
    "can_be_cut",
    "channel_groups",
    "cuttable_groups",
    "indices_of",
    "kept_positions",
    "permute_model",
    "rule",
    "slice_model",
    "take",
]
