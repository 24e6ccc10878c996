"""Blocks: parts of a network that can be left out whole, because what they read and what they make are alike.

There are three kinds. In a sum of two tensors, as at the end of a residual block, the arm of more
multiply-accumulates can go, and the other one stays. Where a tensor is multiplied with something computed from
itself, as by squeeze and excitation, that gate can go. And a layer with a kernel can go with all that follows up to
the next such layer, where everything passes through there and what comes out has the shape of what went in; where
shapes come back after several such layers only, these go together. The layers that make the answer never go.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fleetfoot.console import progress
from fleetfoot.errors import ModelError, offer
from zoo.backend import keras
from zoo.batches import PREDICTION_BATCH, TrainingData
from zoo.cost import Use, uses
from zoo.finetune import recalibrate_batch_norm
from zoo.graph import Call, calls, copy_layer, copy_weights, inlined, rebuild

_SUMS = (keras.layers.Add, keras.src.ops.numpy.Add)
_PRODUCTS = (keras.layers.Multiply, keras.src.ops.numpy.Multiply)
_RECALIBRATION_EXAMPLES = 4 * PREDICTION_BATCH
_LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Block:
    """A part of a network that can be left out.

    Attributes:
        name: the name of the layer that makes what the block ends in.
        layers: the names of all layers that go, in the order of their calls.
        macs: the multiply-accumulates that go.
        replacement: the name of the layer whose output is read instead.
    """

    name: str
    layers: tuple[str, ...]
    macs: int
    replacement: str


def droppable_blocks(model: Any) -> dict[str, Block]:
    """The blocks of a network that can be left out, by name, in the order in which they end.

    They may lie in each other, as a convolution does in the arm of a sum. The layers of models inside the network are
    named as by ``zoo.graph.inlined``.

    Raises:
        ModelError: a convolution that works on sizes which the network leaves open.
    """
    return {name: cut.block for name, cut in _find_cuts(_Wiring(inlined(model))).items()}


def require_blocks(model: Any, count: int = 1) -> dict[str, Block]:
    """The blocks of a network that can be left out, as many as are wanted at least.

    Raises:
        ModelError: there are fewer; of a network without any, it says why of every layer. Or sizes are left open.
    """
    blocks = {name: cut.block for name, cut in _require_cuts(_Wiring(inlined(model))).items()}
    if len(blocks) < count:
        raise ModelError(_too_few(list(blocks)))
    return blocks


def drop_blocks(model: Any, names: Sequence[str]) -> Any:
    """The network without some of its blocks; a block in another that goes as well just goes with it.

    Args:
        model: a functional model.
        names: those of the blocks, as ``droppable_blocks`` has them.

    Returns:
        A new network, whose other layers have the weights that they had.

    Raises:
        ModelError: no such block, or a network that has none or leaves sizes open.
    """
    model = inlined(model)
    cuts = _require_cuts(_Wiring(model))
    for name in names:
        if name not in cuts:
            raise ModelError(_unknown(model, name, cuts))
    return _without(model, [cuts[name] for name in names])


def drop_least_harmful(model: Any, data: TrainingData, count: int) -> list[str]:
    """The blocks that it harms least to drop, one after another, in that order; each is measured without the former.

    Args:
        model: a network that answers with probabilities.
        data: train inputs for batch-norm statistics, and the tune split to measure on.
        count: how many blocks to drop; of blocks that lie in each other, fewer may be all.

    Raises:
        ModelError: there are fewer blocks, or the network leaves sizes open.
    """
    model = inlined(model)
    cuts = _require_cuts(_Wiring(model))
    if len(cuts) < count:
        raise ModelError(_too_few(list(cuts)))
    dropped: list[str] = []
    while len(dropped) < count:
        left = _left_after(model, cuts, dropped)
        if not left:
            break
        losses = {}
        with progress(f"choosing block {len(dropped) + 1} of {count}", len(left)) as advance:
            for name in left:
                without = _without(model, [cuts[other] for other in (*dropped, name)])
                losses[name] = _loss(without, data)
                advance(1)
        dropped.append(min(left, key=losses.__getitem__))
    return dropped


class _Cut(NamedTuple):
    """A block, and its ends as tensors: what is read from ``source`` instead of from ``end``."""

    block: Block
    end: Any
    source: Any


class _Wiring:
    """Which call makes and which calls read each tensor of a network."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls = list(calls(model))
        self.maker = {id(tensor): call for call in self.calls for tensor in call.outputs}
        self.readers: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls:
            for tensor in _distinct(call.inputs):
                self.readers[id(tensor)].append(call)
        self.ends = {id(tensor) for tensor in model.outputs}
        self.answering = _answering(model.outputs, self.maker)
        self._macs: Counter[str] = Counter()
        for use in _sized_uses(model):
            self._macs[use.layer] += use.size * use.times

    def lost(self, end: Any, source: Any) -> list[Call]:
        """The calls that nothing needs any more if ``source`` is read instead of ``end``."""
        needed = {id(call.outputs[0]) for call in calls(self.model, {id(end): source})}
        return [call for call in self.calls if id(call.outputs[0]) not in needed]

    def macs(self, lost: Sequence[Call]) -> int:
        """The multiply-accumulates of calls, all those of their layers."""
        return sum(self._macs[name] for name in {call.layer.name for call in lost})

    def leads_to(self, tensor: Any, result: Any) -> bool:
        """Whether the one tensor is needed to compute the other."""
        wanted, seen = [result], set()
        while wanted:
            made = wanted.pop()
            if made is tensor:
                return True
            if id(made) not in seen:
                seen.add(id(made))
                wanted += self.maker[id(made)].inputs
        return False


def _sized_uses(model: Any) -> list[Use]:
    """The kernels of a network; where it leaves open what they work on, shapes do not tell its blocks."""
    try:
        return uses(model)
    except ModelError as error:
        shapes = " and ".join(str(tensor.shape[1:]) for tensor in model.inputs)
        raise ModelError(
            f"{model.name} takes inputs of any size, {shapes}, and which of its blocks keep shapes is seen at one size "
            f"only: give it one, as keras.Sequential([keras.Input((224, 224, 3)), model]) does"
        ) from error


def _find_cuts(wiring: _Wiring) -> dict[str, _Cut]:
    """What can be left out, by name; of two blocks that end in the same, the sum's or gate's."""
    arms = [_cut(wiring, end, source) for end, source in _arms(wiring)]
    gates = [_cut(wiring, end, source) for end, source in _gates(wiring)]
    inside_gates = {name for cut in gates if cut for name in cut.block.layers}
    chains = [
        cut
        for cut in (_cut(wiring, end, source) for end, source in _chains(wiring))
        if cut and not inside_gates.issuperset(cut.block.layers)
    ]
    cuts: dict[str, _Cut] = {}
    for cut in (*arms, *gates, *chains):
        if cut:
            cuts.setdefault(cut.block.name, cut)
    order = {call.layer.name: number for number, call in enumerate(wiring.calls)}
    return dict(sorted(cuts.items(), key=lambda item: order[item[0]]))


def _cut(wiring: _Wiring, end: Any, source: Any) -> _Cut | None:
    """The block between two tensors; none where it has no kernel, or something in it must stay."""
    lost = wiring.lost(end, source)
    names = tuple(dict.fromkeys(call.layer.name for call in lost))
    gone = {id(call.outputs[0]) for call in lost}
    staying = {call.layer.name for call in wiring.calls if id(call.outputs[0]) not in gone}
    if not staying.isdisjoint(names) or not wiring.answering.isdisjoint(names):
        return None
    if not any(_has_kernel(call.layer) for call in lost) or not all(call.inputs for call in lost):
        return None
    maker, replacement = wiring.maker[id(end)], wiring.maker[id(source)]
    return _Cut(Block(maker.layer.name, names, wiring.macs(lost), replacement.layer.name), end, source)


def _arms(wiring: _Wiring) -> Iterator[tuple[Any, Any]]:
    """For each sum of two tensors, what it makes, and that of the two which stays."""
    for call in wiring.calls:
        if isinstance(call.layer, _SUMS) and len(_distinct(call.inputs)) == len(call.inputs) == 2:
            (total,) = call.outputs
            lost = {id(tensor): wiring.lost(total, tensor) for tensor in call.inputs}
            stays = max(call.inputs, key=lambda tensor: (wiring.macs(lost[id(tensor)]), len(lost[id(tensor)])))
            if _are_alike(total, stays):
                yield total, stays


def _gates(wiring: _Wiring) -> Iterator[tuple[Any, Any]]:
    """For each product of a tensor with something computed from it, the product and the tensor."""
    for call in wiring.calls:
        if isinstance(call.layer, _PRODUCTS) and len(_distinct(call.inputs)) == len(call.inputs) == 2:
            (product,) = call.outputs
            for tensor, gate in (call.inputs, call.inputs[::-1]):
                if _are_alike(product, tensor) and wiring.leads_to(tensor, gate):
                    yield product, tensor


def _chains(wiring: _Wiring) -> Iterator[tuple[Any, Any]]:
    """For each layer with a kernel, where what follows is like its input again, and its input."""
    for number, call in enumerate(wiring.calls):
        if _has_kernel(call.layer) and len(call.inputs) == 1:
            (source,) = call.inputs
            alone = len(wiring.readers[id(source)]) == 1 and id(source) not in wiring.ends
            end = _end_of_chain(wiring, number) if alone else None
            if end is not None:
                yield end, source


def _end_of_chain(wiring: _Wiring, start: int) -> Any:
    """The last tensor like the input of a call that all that comes of it passes, and no layer with a kernel before it.

    Calls join the chain when all that they read is made in it. A tensor that some of its readers have yet to join
    for is open; where only one is, everything passes through it.
    """
    first = wiring.calls[start]
    opened: dict[int, int] = {}
    end = None
    for call in wiring.calls[start:]:
        if call is not first and not (call.inputs and all(id(tensor) in opened for tensor in call.inputs)):
            continue
        if end is not None and _has_kernel(call.layer):
            break
        for tensor in _distinct(call.inputs) if call is not first else []:
            opened[id(tensor)] -= 1
        for tensor in call.outputs:
            opened[id(tensor)] = len(wiring.readers[id(tensor)]) + (id(tensor) in wiring.ends)
        (made, *others) = call.outputs
        alone = [key for key, readers in opened.items() if readers] == [id(made)]
        if alone and not others and _are_alike(made, first.inputs[0]):
            end = made
    return end


def _answering(outputs: Sequence[Any], maker: Mapping[int, Call]) -> set[str]:
    """The names of the layers with a kernel after which there is none on the way to an output."""
    wanted, seen, found = list(outputs), set(), set()
    while wanted:
        tensor = wanted.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        call = maker[id(tensor)]
        if _has_kernel(call.layer):
            found.add(call.layer.name)
        else:
            wanted += call.inputs
    return found


def _has_kernel(layer: Any) -> bool:
    return any("kernel" in weight.name for weight in getattr(layer, "weights", ()))


def _are_alike(one: Any, other: Any) -> bool:
    return bool(one.shape == other.shape and one.dtype == other.dtype)


def _distinct(tensors: Sequence[Any]) -> list[Any]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _require_cuts(wiring: _Wiring) -> dict[str, _Cut]:
    cuts = _find_cuts(wiring)
    if not cuts:
        reasons = "; ".join(
            f"{call.layer.name} {_why_it_stays(wiring, call)}" for call in wiring.calls if _has_kernel(call.layer)
        )
        raise ModelError(
            f"{wiring.model.name} has no blocks that can be dropped ({reasons or 'no layer has a kernel'})"
        )
    return cuts


def _why_it_stays(wiring: _Wiring, call: Call) -> str:
    if call.layer.name in wiring.answering:
        return "makes the answer"
    if sum(other.layer is call.layer for other in wiring.calls) > 1:
        return "is called more than once"
    if len(call.inputs) == 1 and not _are_alike(call.inputs[0], call.outputs[0]):
        return f"makes {call.outputs[0].shape[1:]} of {call.inputs[0].shape[1:]}"
    return "reads or makes what others read too"


def _unknown(model: Any, name: str, cuts: Mapping[str, _Cut]) -> str:
    return f"{model.name} has no block {name!r} that can be dropped: {offer(name, cuts)}"


def _too_few(names: Sequence[str]) -> str:
    return f"only {len(names)} blocks can be dropped: {', '.join(names)}"


def _without(model: Any, cuts: Sequence[_Cut]) -> Any:
    """The network with these parts cut out."""
    shorter = rebuild(model, copy_layer, shortcuts={id(cut.end): cut.source for cut in cuts})
    copy_weights(model, shorter)
    return shorter


def _left_after(model: Any, cuts: Mapping[str, _Cut], dropped: Sequence[str]) -> list[str]:
    """The blocks that are still there, whole or in part, when others were dropped."""
    shortcuts = {id(cuts[name].end): cuts[name].source for name in dropped}
    there = {call.layer.name for call in calls(model, shortcuts)}
    return [name for name, cut in cuts.items() if name in there and name not in dropped]


def _loss(model: Any, data: TrainingData) -> float:
    """Cross-entropy on the tune split, with batch-norm statistics of some train inputs."""
    some = np.sort(np.random.default_rng(0).permutation(data.train)[:_RECALIBRATION_EXAMPLES])
    recalibrate_batch_norm(model, dataclasses.replace(data, train=some))
    answers = np.concatenate([np.asarray(model(x, training=False)) for x, _ in data.tune_batches()])
    right = answers[np.arange(len(answers)), data.y_tune]
    return float(-np.log(np.maximum(right, _LEAST_PROBABILITY, dtype=np.float64)).mean())
