"""Cuts a trained ResNet-8 with Torch-Pruning and fine-tunes it, as the peer of ``bench_pruning.py``.

It runs by itself, in an environment with ``torch``, ``torch-pruning`` and ``numpy``, and prints one line of JSON.
The working folder holds what the caller makes, ``data`` being its ``TrainingData`` and ``model`` its base network::

    def save_for_peer(folder, data, test):
        for name, rows in (("train", data.train), ("tune", data.tune), ("test", test)):
            np.save(folder / f"{name}_x.npy", data.dataset.x[rows])  # uint8, (examples, 32, 32, 3)
            np.save(folder / f"{name}_y.npy", data.dataset.y[rows].astype(np.int64))  # (examples,)

    def save_base(folder, model, seed):
        weights = {f"{layer.name}/{v.name}": np.asarray(v) for layer in model.layers for v in layer.weights}
        np.savez(folder / f"base-{seed}.npz", **weights)  # as "stem_conv/kernel", "stem_norm/gamma"

What comes after the cut is ``zoo.finetune.train`` again: the same order of examples, the same images mirrored, the
same steps of Adam, and the epoch with the least tune loss.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SIZE, CHANNELS, WIDTH, CLASSES = 32, 3, 16, 10
BATCH, PREDICTION_BATCH = 64, 256
FINE_TUNING_RATE = 5e-4
TEACHER_WEIGHT = 0.5
PATIENCE_SHARE = 0.5
GRADIENT_BATCHES, GRADIENT_BATCH = 10, 128
"""From which the Taylor criterion has its gradients: as many as the library's experiments on CIFAR-10 take."""

CRITERIA: Mapping[str, Any] = {
    "l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "group-magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": lambda: tp.importance.GroupTaylorImportance(),
}

Array = npt.NDArray[Any]


class ResNet8(nn.Module):
    """The network ``resnet-8`` of ``zoo.architectures``, with its layers' names; it answers with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self._convolution("stem", CHANNELS, WIDTH)
        channels = WIDTH
        for stage in (1, 2, 3):
            name, filters = f"stage{stage}_block1", WIDTH * 2 ** (stage - 1)
            stride = 1 if stage == 1 else 2
            self._convolution(f"{name}_first", channels, filters, stride)
            self._convolution(f"{name}_second", filters, filters)
            if stride > 1:
                self.layers[f"{name}_shortcut"] = nn.Conv2d(channels, filters, 1, stride)
            channels = filters
        self.layers["probabilities"] = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images from 0 to 1, of shape (examples, channels, height, width)."""
        x = F.relu(self._normalized("stem", x))
        for stage in (1, 2, 3):
            name = f"stage{stage}_block1"
            residual = F.relu(self._normalized(f"{name}_first", x))
            residual = self._normalized(f"{name}_second", residual)
            shortcut = self.layers[f"{name}_shortcut"](x) if f"{name}_shortcut" in self.layers else x
            x = F.relu(shortcut + residual)
        return self.layers["probabilities"](F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]

    def _convolution(self, name: str, channels: int, filters: int, stride: int = 1) -> None:
        self.layers[f"{name}_conv"] = nn.Conv2d(channels, filters, 3, stride, padding=1 if stride == 1 else 0)
        self.layers[f"{name}_norm"] = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1)

    def _normalized(self, name: str, x: Tensor) -> Tensor:
        conv = self.layers[f"{name}_conv"]
        if conv.stride == (2, 2):  # TensorFlow pads even sizes below and on the right only
            x = F.pad(x, (0, 1, 0, 1))
        return self.layers[f"{name}_norm"](conv(x))  # type: ignore[no-any-return]


def load_base(path: Path) -> ResNet8:
    """The network with the weights of a trained Keras network."""
    model = ResNet8()
    with np.load(path) as weights, torch.no_grad():
        if missing := {key.split("/")[0] for key in weights} ^ set(model.layers):
            raise ValueError(f"{path} and the network differ in their layers: {', '.join(sorted(missing))}")
        for name, layer in model.layers.items():
            for key, target in _tensors(layer).items():
                value = torch.from_numpy(weights[f"{name}/{key}"])
                if key == "kernel":
                    value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
                if value.shape != target.shape:
                    raise ValueError(f"{name}/{key} has shape {tuple(value.shape)} and not {tuple(target.shape)}")
                target.copy_(value)
    return model.to(memory_format=torch.channels_last).eval()


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's tensors by their names in Keras."""
    names = {"weight": "kernel", "bias": "bias"}
    if isinstance(layer, nn.BatchNorm2d):
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    return {keras_name: getattr(layer, name) for name, keras_name in names.items()}


class Split(NamedTuple):
    """Raw images and their classes."""

    x: Array
    y: Array

    @classmethod
    def load(cls, folder: Path, name: str) -> Split:
        """A split of the working folder; the images stay on the disk."""
        return cls(np.load(folder / f"{name}_x.npy", mmap_mode="r"), np.load(folder / f"{name}_y.npy"))


def as_input(images: Array) -> Tensor:
    """What the network takes, of raw images; in the ``channels_last`` format, because that is how they lie."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().mul_(1 / 255)


@torch.no_grad()
def predict(model: nn.Module, x: Array) -> Tensor:
    """Logits of raw images."""
    model.eval()
    return torch.cat([model(as_input(x[at : at + PREDICTION_BATCH])) for at in range(0, len(x), PREDICTION_BATCH)])


def accuracy(model: nn.Module, split: Split) -> float:
    """The share of images whose class is recognised."""
    return float((predict(model, split.x).argmax(1).numpy() == split.y).mean())


def count_macs(model: nn.Module) -> int:
    """Multiply-accumulates of convolutions and dense layers, as ``zoo.cost.count_macs`` counts them."""
    positions: dict[nn.Module, int] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: positions.update({layer: output[0, 0].numel()}))
        for layer in _weighted(model)
    ]
    predict(model, np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8))
    for hook in hooks:
        hook.remove()
    return sum(layer.weight.numel() * count for layer, count in positions.items())


def library_macs(model: nn.Module) -> int:
    """The same by the library's count, less the additions of biases, which it counts along."""
    counts = tp.utils.count_ops_and_params(model, _example(), layer_wise=True)[2]
    return sum(
        counts[layer] * layer.weight.numel() // (layer.weight.numel() + layer.bias.numel())
        for layer in _weighted(model)
    )


def cut(model: ResNet8, criterion: str, share: float, train: Split, seed: int, over_all: bool = False) -> None:
    """Removes channels, one of the widest layers at a time, until a share of the multiply-accumulates is left.

    As in the library's introduction, it ranks the channels of each group of layers by themselves; as in its own
    experiments, it goes in small steps until there are few enough operations. The last step stops as soon as that
    is so. The Taylor criterion gets the gradients of what is left before each step.

    Args:
        model: the network, cut in place.
        criterion: one of ``CRITERIA``.
        share: of the multiply-accumulates, the most that may be left.
        train: what the Taylor criterion has its gradients from.
        seed: of the choice of those examples.
        over_all: ranks all channels against each other (``global_pruning``).

    Raises:
        ValueError: so little cannot be left, or the library counts otherwise.
    """
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    pruner = tp.pruner.BasePruner(
        model,
        _example(),
        importance=CRITERIA[criterion](),
        pruning_ratio=1.0,
        iterative_steps=sum(widths) if over_all else max(widths),
        global_pruning=over_all,
        ignored_layers=[model.layers["probabilities"]],
    )
    most = share * count_macs(model)
    while count_macs(model) > most:
        if pruner.current_step == pruner.iterative_steps:
            raise ValueError(f"no cut leaves only {share:.1%} of the multiply-accumulates")
        if criterion == "taylor":
            take_gradients(model, train, np.random.default_rng([seed, pruner.current_step]))
        for group in pruner.step(interactive=True):
            group.prune()
            if count_macs(model) <= most:
                break
    model.zero_grad()
    model.to(memory_format=torch.channels_last)
    if count_macs(model) != library_macs(model):
        raise ValueError("the two counts of multiply-accumulates differ")


def take_gradients(model: nn.Module, train: Split, random: np.random.Generator) -> None:
    """Sums the gradients of some batches, with batch norm as in inference."""
    model.eval()
    model.zero_grad()
    rows = random.choice(len(train.y), min(len(train.y), GRADIENT_BATCHES * GRADIENT_BATCH), replace=False)
    for at in range(0, len(rows), GRADIENT_BATCH):
        batch = np.sort(rows[at : at + GRADIENT_BATCH])
        F.cross_entropy(model(as_input(train.x[batch])), torch.from_numpy(train.y[batch])).backward()


def targets(y: Array, answers: Tensor | None = None) -> Tensor:
    """A row of probabilities for each example, half of it a teacher's answer if there is one."""
    one_hot = F.one_hot(torch.from_numpy(y), CLASSES).float()
    return one_hot if answers is None else TEACHER_WEIGHT * answers + (1 - TEACHER_WEIGHT) * one_hot


def batches(x: Array, wanted: Tensor, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in the order of ``zoo.batches.Batches``, the same images mirrored."""
    order = np.random.default_rng([seed, epoch]).permutation(len(x))
    for number, at in enumerate(range(0, len(x), BATCH)):
        rows = order[at : at + BATCH]
        images = x[rows]
        chosen = np.random.default_rng([seed, epoch, number]).random(len(rows)) < 0.5
        images[chosen] = images[chosen, :, ::-1]
        yield as_input(images), wanted[rows]


def fine_tune(
    model: nn.Module, train: Split, tune: Split, wanted: Tensor, epochs: int, learning_rate: float, seed: int
) -> None:
    """Trains in place, as ``zoo.finetune.train``, and leaves the weights that were best on the tune split."""
    # Both with the epsilon that Keras has by default.
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, eps=1e-7)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(train.y) // BATCH))
    tune_y = torch.from_numpy(tune.y)
    least, best, weights = float("inf"), -1, model.state_dict()
    for epoch in range(epochs):
        model.train()
        for x, y in batches(train.x, wanted, seed, epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
        loss = F.cross_entropy(predict(model, tune.x), tune_y).item()
        if loss < least:
            least, best, weights = loss, epoch, copy.deepcopy(model.state_dict())
        if epoch - best >= max(2, round(PATIENCE_SHARE * epochs)):
            break
    model.load_state_dict(weights)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Cuts and fine-tunes one network; what there is to say of it."""
    train, tune, test = (Split.load(options.work, name) for name in ("train", "tune", "test"))
    model = load_base(options.work / f"base-{options.seed}.npz")
    base_macs = count_macs(model)
    begin = time.perf_counter()
    answers = predict(model, train.x).softmax(1) if options.teacher else None
    cut(model, options.criterion, options.macs, train, options.seed, options.global_pruning)
    macs, before = count_macs(model), accuracy(model, test)
    fine_tune(model, train, tune, targets(train.y, answers), options.epochs, options.learning_rate, options.seed)
    return {
        "criterion": options.criterion,
        "seed": options.seed,
        "macs": macs / base_macs,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "widths": {n: layer.out_channels for n, layer in model.layers.items() if isinstance(layer, nn.Conv2d)},
        "accuracy": accuracy(model, test),
        "before": before,
        "seconds": time.perf_counter() - begin,
    }


def main() -> None:
    """Reads the options, and prints what came out."""
    parser = argparse.ArgumentParser(description="Torch-Pruning as a peer of Fleetfoot's pruning.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of the arrays and the base network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--criterion", choices=sorted(CRITERIA), required=True)
    parser.add_argument("--macs", type=float, default=0.5, help="the share of multiply-accumulates that may be left")
    parser.add_argument("--global-pruning", action="store_true", help="rank all channels against each other")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=FINE_TUNING_RATE)
    parser.add_argument("--teacher", action="store_true", help="half of the target is the base network's answer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    print(json.dumps(run(options)), flush=True)


def _weighted(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def _example() -> Tensor:
    return torch.zeros(1, CHANNELS, SIZE, SIZE)


if __name__ == "__main__":
    main()
