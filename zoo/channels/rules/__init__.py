"""What each type of layer does to the channels that come into it.

A rule takes a call of a layer, the labels of its inputs and the flow. It returns the labels of the output, or None
where it does not know them; what a rule needs to say of weights, it tells the flow. A layer type of one's own gets a
rule by ``rule``:

    @rule(MyScale)
    def my_scale(call, incoming, flow):
        into = flow.along(incoming[0], -1, call.inputs[0].shape[1:], call.layer)
        flow.take_part(call.layer, {"scale": {-1: into}})
        return incoming[0]
"""

from zoo.channels.rules import merging, normalizing, passing, shaping, weighted  # noqa: F401 - they register themselves
from zoo.channels.rules.registry import follow, rule

__all__ = ["follow", "rule"]
