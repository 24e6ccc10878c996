"""Latency of networks that were never built: from the operators in them, and a table of operators that were timed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from profiling.operators.costs import CostModel
from profiling.operators.operator import WEIGHTED, Operator
from profiling.operators.single import read_operators
from profiling.operators.table import FREE, OperatorTable, own_ms
from profiling.profile import Profile, Target

_SUM_ERROR = 0.02
_FEWEST_TO_LEARN_FROM = 8

Group = tuple[str, str, str]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of a network.

    Attributes:
        ms: of a call of the whole network on the device while nothing else slows it, in milliseconds.
        operator_ms: of each operator; None where it could not be priced.
        measured_share: the share of ``ms`` that is of operators that are in the table.
        expected_error: the expected mean relative error of ``ms``.
        unpriced: the kinds and number formats that the table cannot price; what they take is missing in ``ms``.
    """

    ms: float
    operator_ms: tuple[float | None, ...]
    measured_share: float
    expected_error: float
    unpriced: tuple[str, ...] = ()


class _Price(NamedTuple):
    ms: float
    error: float
    measured: bool


class Predictor:
    """What a table tells about operators.

    What it learns from the table, it learns when it is first needed, and the price of an operator it finds once.
    """

    def __init__(self, table: OperatorTable) -> None:
        self._table = table
        self._models: dict[Group, CostModel | None] = {}
        self._prices: dict[Operator, _Price | None] = {}

    def predict(self, operators: Sequence[Operator]) -> Prediction:
        """Prices the operators of a network and adds them up, with the cost of the call."""
        self._price(dict.fromkeys(operators).keys() - self._prices.keys())
        known = {operator: price for operator in operators if (price := self._prices[operator]) is not None}
        own = [known[operator] for operator in operators if operator in known]
        ms = self._table.call_ms + sum(price.ms for price in own)
        return Prediction(
            ms=ms,
            operator_ms=tuple(known[operator].ms if operator in known else None for operator in operators),
            measured_share=(self._table.call_ms + sum(price.ms for price in own if price.measured)) / ms,
            expected_error=_expected_error(operators, known, ms),
            unpriced=tuple(sorted({_name(operator) for operator in operators if operator not in known})),
        )

    def _price(self, operators: Set[Operator]) -> None:
        others: dict[Group, list[Operator]] = defaultdict(list)
        for operator in operators:
            if operator.kind in FREE:
                self._prices[operator] = _Price(0.0, 0.0, measured=True)
            elif operator in self._measured:
                self._prices[operator] = _Price(self._measured[operator], 0.0, measured=True)
            else:
                others[_group(operator)].append(operator)
        for group, members in others.items():
            self._prices |= self._learned_prices(group, members)

    def _learned_prices(self, group: Group, operators: Sequence[Operator]) -> dict[Operator, _Price | None]:
        model = self._model(group)
        if model is None:
            return dict.fromkeys(operators)
        times, errors = model.predict(operators)
        return {
            operator: _Price(own_ms(operator, float(ms), self._table.overhead_ms), float(ms * error), measured=False)
            for operator, ms, error in zip(operators, times, errors, strict=True)
        }

    @cached_property
    def _measured(self) -> dict[Operator, float]:
        overhead_ms = self._table.overhead_ms
        return {timed.operator: own_ms(timed.operator, timed.ms, overhead_ms) for timed in self._table.timings}

    def _model(self, group: Group) -> CostModel | None:
        if group not in self._models:
            timings = [timed for timed in self._table.timings if _group(timed.operator) == group]
            operators = [timed.operator for timed in timings]
            enough = len(timings) >= _FEWEST_TO_LEARN_FROM
            ms = np.array([timed.ms for timed in timings])
            self._models[group] = CostModel.fit(operators, ms) if enough else None
        return self._models[group]


def predict(table: OperatorTable, operators: Sequence[Operator]) -> Prediction:
    """The latency of one network; for many, make a ``Predictor`` once."""
    return Predictor(table).predict(operators)


def with_predictions(profile: Profile, targets: Sequence[Target], table: OperatorTable) -> Profile:
    """A profile that says of each model what a table of single operators, of other networks, would have predicted.

    Nothing is said of a model with an operator that the table cannot price.
    """
    predictor = Predictor(table)
    measurements = dict(profile.measurements)
    for target in targets:
        if target.name in measurements:
            prediction = predictor.predict(read_operators(target.path, target.signature))
            known = None if prediction.unpriced else prediction.ms
            measurements[target.name] = msgspec.structs.replace(measurements[target.name], predicted_ms=known)
    return msgspec.structs.replace(profile, measurements=measurements)


def _group(operator: Operator) -> Group:
    """Kind, number format and use of weights: the times of operators are told from others of their group."""
    weights = operator.weights
    use = ""
    if operator.macs == 0 and operator.kind in WEIGHTED:
        use = "computed weights"
    elif operator.kind == "CONV_2D" and weights is not None and weights.shape[-1] != operator.activations[0].shape[-1]:
        use = "grouped"
    return operator.kind, operator.numbers, use


def _name(operator: Operator) -> str:
    kind, numbers, use = _group(operator)
    return f"{kind} in {numbers}{f' ({use})' if use else ''}"


def _expected_error(operators: Sequence[Operator], known: dict[Operator, _Price], ms: float) -> float:
    """Errors of one kind are taken to go the same way, those of different kinds to be independent.

    To them comes what adding up costs: in a network, operators find other things in the caches than alone.
    """
    by_group: dict[Group, float] = defaultdict(float)
    for operator in operators:
        if operator in known:
            by_group[_group(operator)] += known[operator].error
    learned = sum(error**2 for error in by_group.values()) ** 0.5 / ms
    return float((learned**2 + _SUM_ERROR**2) ** 0.5)
