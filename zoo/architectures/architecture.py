"""What the registry says of a network: how it is built, from which inputs, and what can be chosen about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fleetfoot.errors import ModelError, UsageError
from zoo.catalog import InputSpec

Kind = Literal["image", "audio", "tensor"]
Value = int | float | str | bool


@dataclass(frozen=True)
class Parameter:
    """The range of one parameter of a network.

    Attributes:
        values: those worth trying, numbers in ascending order.
        default: the value of the network as published.
        between: whether other numbers between the first and the last will do as well.
        kinds: the kinds of input for which it means something.
    """

    values: tuple[Value, ...]
    default: Value
    between: bool = False
    kinds: tuple[Kind, ...] = ("image", "audio", "tensor")

    def covers(self, value: object) -> bool:
        """Whether a value is of the right type and in the range."""
        if isinstance(self.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(self.default):
            return False
        if self.between and isinstance(value, int | float):
            return bool(self.values[0] <= value <= self.values[-1])  # type: ignore[operator]
        return value in self.values

    def __str__(self) -> str:
        if self.between:
            return f"{type(self.default).__name__} from {self.values[0]} to {self.values[-1]}"
        return " or ".join(map(str, self.values))


@dataclass(frozen=True)
class Architecture:
    """A built-in network.

    Attributes:
        name: what it is called on the command line.
        builder: ``(input spec, number of classes, **parameters) → untrained network``.
        kinds: the kinds of input that it takes.
        parameters: what can be chosen about it, by name.
    """

    name: str
    builder: Callable[..., Any]
    kinds: tuple[Kind, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def __call__(self, spec: InputSpec, classes: int, **parameters: Value) -> Any:
        """Builds the network, untrained: one raw input, one output of probabilities.

        Args:
            spec: the raw input.
            classes: how many classes there are.
            parameters: what is to be other than the default.

        Raises:
            UsageError: a parameter that it does not have, or a value out of its range.
            ModelError: an input that it cannot take.
        """
        if spec.kind not in self.kinds:
            raise ModelError(f"{self.name} takes {' or '.join(self.kinds)} inputs, and these are of kind {spec.kind}")
        for name, value in parameters.items():
            self._check(name, value, spec.kind)
        try:
            return self.builder(spec, classes, **parameters)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from None

    def _check(self, name: str, value: Value, kind: Kind) -> None:
        known = {name: parameter for name, parameter in self.parameters.items() if kind in parameter.kinds}
        if name not in known:
            raise UsageError(f"{self.name} has no parameter {name!r} for {kind} inputs: {_list(known)}")
        if not known[name].covers(value):
            raise UsageError(f"{name} of {self.name} is {known[name]}, not {value!r}")


def _list(names: Mapping[str, Parameter]) -> str:
    return f"there is {', '.join(names)}" if names else "there is none"
