"""The selector in process: choosing, running, learning, and going on when something is wrong."""

from __future__ import annotations

import math
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import (
    BudgetError,
    DeviceError,
    InputError,
    NotAZooError,
    OverBudgetError,
    RequestError,
    UsageError,
    ZooError,
)
from fleetfoot.files import sha256
from premodel.plan import ESTIMATE_FILE, Plan
from premodel.policy import Objective
from profiling.invoke import Model
from profiling.profile import Conditions, Profile, this_device
from runtime import Answer, Selector
from zoo.catalog import Zoo

HERE = this_device().id
FOREVER = math.inf
INSTANT = 1e-6
"""A budget that nothing keeps."""


def by_accuracy(path: Path) -> list[str]:
    """The variants of a staircase zoo from the fastest to the most accurate."""
    zoo = Zoo.open(path)
    return sorted(zoo.variants, key=lambda name: zoo.variants[name].accuracy["route"])


# --- an answer ---


def test_an_answer_is_that_of_the_variants_file(selector: Selector, images: Any, reference: Any) -> None:
    for index, image in enumerate(images):
        answer = selector.infer(image, FOREVER if index % 2 else INSTANT)
        probabilities = reference[answer.variant][index]
        assert answer.index == probabilities.argmax()
        assert answer.label == str(answer.index)
        assert answer.confidence == pytest.approx(float(probabilities.max()), abs=1e-6)


def test_an_answer_says_what_it_took_and_whether_that_was_in_time(selector: Selector, images: Any) -> None:
    answer = selector.infer(images[0], 60_000)
    assert 0 < answer.latency_ms < 60_000
    assert answer.within_budget
    assert answer.expected_ms > 0
    assert answer.why == "the most likely right within the budget"


def test_a_budget_that_nothing_keeps_is_served_by_the_fastest_and_flagged(selector: Selector, images: Any) -> None:
    answer = selector.infer(images[0], INSTANT)
    described = selector.describe()
    assert answer.variant in described.variants
    assert not answer.within_budget
    assert answer.why.startswith("no variant keeps ")
    assert selector.stats().late == 1


def test_or_refused_when_the_caller_asks_for_that(selector: Selector, images: Any) -> None:
    for ask in (selector.infer, selector.choose):
        with pytest.raises(OverBudgetError, match=r"no variant keeps 1e-06 ms here: the fastest needs "):
            ask(images[0], INSTANT, on_miss="refuse")
    assert selector.stats().refused == 2
    assert selector.stats().answers == 0
    assert selector.infer(images[0], 60_000, on_miss="refuse").within_budget


def test_choosing_does_not_run_anything(selector: Selector, images: Any) -> None:
    choice = selector.choose(images[0], FOREVER)
    assert choice.fits
    assert choice.variant in selector.describe().variants
    stats = selector.stats()
    assert (stats.answers, stats.chosen, stats.slowdown) == (0, {}, 1.0)


def test_nothing_is_late_when_there_is_no_hurry(selector: Selector, images: Any) -> None:
    assert selector.infer(images[0], FOREVER).within_budget
    assert selector.stats().late == 0


# --- budgets decide ---


def test_larger_budgets_choose_from_the_fastest_to_the_most_accurate(staircase: Path, images: Any) -> None:
    selector = Selector.open(staircase)
    accuracy = {name: variant.accuracy["route"] for name, variant in Zoo.open(staircase).variants.items()}
    steps = by_accuracy(staircase)
    chosen = [selector.choose(images[0], 100.0 * step + 150).variant for step in range(len(steps))]
    assert chosen[0] == steps[0]
    assert accuracy[chosen[-1]] == max(accuracy.values())
    assert [accuracy[name] for name in chosen] == [accuracy[name] for name in steps]
    assert len(set(chosen)) >= 3


def test_time_already_gone_by_is_taken_from_the_budget(staircase: Path, images: Any) -> None:
    accuracy = {name: variant.accuracy["route"] for name, variant in Zoo.open(staircase).variants.items()}
    steps = by_accuracy(staircase)
    number = next(number for number in range(1, len(steps)) if accuracy[steps[number]] > accuracy[steps[number - 1]])
    takes, selector = 100.0 * (number + 1), Selector.open(staircase)
    chosen = [selector.choose(images[0], budget).variant for budget in (takes, takes + 99)]
    # Without the 99 ms, not even the microseconds of choosing are left.
    assert [accuracy[name] for name in chosen] == [accuracy[steps[number - 1]], accuracy[steps[number]]]


def test_for_the_latency_goal_the_fastest_good_enough_is_chosen(staircase: Path, images: Any) -> None:
    accuracy = {name: variant.accuracy["route"] for name, variant in Zoo.open(staircase).variants.items()}
    steps = by_accuracy(staircase)
    wanted = accuracy[steps[2]]
    objective = Objective(goal="latency", wanted_accuracy=wanted)
    choice = Selector.open(staircase).choose(images[0], FOREVER, objective=objective)
    assert choice.variant == next(name for name in steps if accuracy[name] >= wanted)


def test_the_estimate_is_asked_where_the_budget_allows_and_its_probabilities_decide(
    staircase: Path, images: Any, plan_estimate: Any
) -> None:
    plan_estimate(staircase)
    selector = Selector.open(staircase)
    assert selector.describe().stages == ("table", "estimate")
    estimate = Model(staircase / ESTIMATE_FILE).runner("estimate")
    names = list(Plan.read(Plan.path(staircase, HERE)).variants)
    for image in images[:20]:
        estimated = dict(zip(names, estimate(image[np.newaxis])[0].tolist(), strict=True))
        choice = selector.choose(image, FOREVER)
        assert choice.p_right == pytest.approx(max(estimated.values()))
        assert choice.p_right == pytest.approx(estimated[choice.variant])


def test_the_estimate_is_not_asked_where_it_would_cost_the_budget(
    staircase: Path, images: Any, plan_estimate: Any
) -> None:
    plan_estimate(staircase)  # at 50 ms
    selector = Selector.open(staircase)
    fastest = by_accuracy(staircase)[0]
    table = Zoo.open(staircase).variants[fastest].accuracy["route"]
    hurried, leisurely = selector.choose(images[0], 130.0), selector.choose(images[0], 190.0)
    assert hurried.variant == leisurely.variant == fastest
    assert hurried.p_right == table
    assert leisurely.p_right != table


# --- what cannot be asked ---

BAD_INPUTS = [
    pytest.param(np.zeros((8, 8)), id="an axis too few"),
    pytest.param(np.zeros((1, 8, 8, 1)), id="a batch"),
    pytest.param(np.zeros((0,)), id="empty"),
    pytest.param(np.zeros((8, 8, 1), complex), id="complex"),
    pytest.param(np.zeros((8, 8, 1), bool), id="truth values"),
    pytest.param(np.zeros((8, 8, 1), object), id="objects"),
    pytest.param(np.full((8, 8, 1), "0"), id="strings"),
    pytest.param(np.zeros((8, 8, 1), "M8[s]"), id="dates"),
    pytest.param(np.full((8, 8, 1), np.nan), id="NaN"),
    pytest.param(np.full((8, 8, 1), np.inf), id="infinity"),
    pytest.param(None, id="nothing"),
    pytest.param("an image", id="text"),
    pytest.param({"x": 1}, id="a dictionary"),
    pytest.param(
        [[1.0], [1.0, 2.0]], id="ragged lists"
    ),
    pytest.param(
        np.full((8, 8, 1), 1e300), id="infinite as float32"
    ),
]  # fmt: skip


@pytest.mark.parametrize("x", BAD_INPUTS)
def test_a_bad_input_is_refused_and_the_selector_goes_on(selector: Selector, images: Any, x: Any) -> None:
    for ask in (selector.infer, selector.choose):
        with pytest.raises(InputError):
            ask(x, FOREVER)
    assert selector.stats().answers == 0
    assert isinstance(selector.infer(images[0], FOREVER), Answer)


@pytest.mark.parametrize("budget", [math.nan, 0, -1, -math.inf, True, "8", None])
def test_a_bad_budget_is_refused_and_the_selector_goes_on(selector: Selector, images: Any, budget: Any) -> None:
    for ask in (selector.infer, selector.choose):
        with pytest.raises(BudgetError):
            ask(images[0], budget)
    assert isinstance(selector.infer(images[0], FOREVER), Answer)


def test_on_miss_is_one_of_two_words(selector: Selector, images: Any) -> None:
    with pytest.raises(RequestError, match="on_miss is 'serve' or 'refuse', not 'skip'"):
        selector.infer(images[0], FOREVER, on_miss="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", ">f4"])
def test_numbers_of_any_type_that_fits_are_taken(selector: Selector, images: Any, dtype: str) -> None:
    answer = selector.infer(images[0].astype(dtype), FOREVER)
    assert answer.index == selector.infer(images[0], FOREVER).index


def test_nested_lists_are_taken(selector: Selector, images: Any) -> None:
    assert selector.infer(images[0].tolist(), FOREVER).index == selector.infer(images[0], FOREVER).index


# --- a zoo in which something is wrong ---


def test_a_damaged_variant_is_left_out_and_the_rest_serve(
    staircase: Path, images: Any, plan_estimate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_estimate(staircase)
    zoo = Zoo.open(staircase)
    best = by_accuracy(staircase)[-1]
    (staircase / zoo.variants[best].file).unlink()
    selector = Selector.open(staircase)
    assert f"warning: {best} is left out" in capsys.readouterr().err
    assert best not in selector.describe().variants
    for budget in (INSTANT, 500.0, FOREVER):
        assert selector.infer(images[0], budget).variant != best


def test_a_zoo_of_damaged_variants_only_is_refused(zoo_copy: Path) -> None:
    for file in (zoo_copy / "variants").iterdir():
        file.unlink()
    with pytest.raises(ZooError, match="no variant that can be used"):
        Selector.open(zoo_copy)


def test_a_directory_that_is_no_zoo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAZooError, match="no such directory"):
        Selector.open(tmp_path / "nowhere")


def stale(path: Path) -> None:
    plan = Plan.read(Plan.path(path, HERE))
    first, *_ = plan.variants
    msgspec.structs.replace(plan, variants=plan.variants | {first: "0" * 64}).write(Plan.path(path, HERE))


def newer(path: Path) -> None:
    text = Plan.path(path, HERE).read_text()
    Plan.path(path, HERE).write_text(text.replace('"schema_version": 1', '"schema_version": 99'))


def no_model(path: Path) -> None:
    (path / ESTIMATE_FILE).write_bytes(b"no model")
    plan = Plan.read(Plan.path(path, HERE))
    msgspec.structs.replace(plan, estimate_sha256=sha256(path / ESTIMATE_FILE)).write(Plan.path(path, HERE))


@pytest.mark.parametrize(
    "damage",
    [
        stale,
        newer,
        pytest.param(no_model),
        pytest.param(lambda path: Plan.path(path, HERE).unlink(), id="no plan"),
        pytest.param(lambda path: Plan.path(path, HERE).write_bytes(b"{"), id="damaged plan"),
        pytest.param(lambda path: (path / ESTIMATE_FILE).unlink(), id="no estimate"),
        pytest.param(lambda path: (path / ESTIMATE_FILE).write_bytes(b"damaged"), id="damaged estimate"),
    ],
)
def test_without_a_usable_premodel_the_choice_is_static_and_says_so(
    staircase: Path, images: Any, plan_estimate: Any, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_estimate(staircase)
    damage(staircase)
    selector = Selector.open(staircase)
    assert re.fullmatch(r"warning: choosing without a premodel: .+\n", capsys.readouterr().err)
    assert selector.describe().stages == ("table",)
    assert len({selector.choose(image, 550.0).variant for image in images}) == 1
    assert isinstance(selector.infer(images[0], FOREVER), Answer)


def test_an_unknown_device_is_refused_with_those_there_are(finished_zoo: Path) -> None:
    with pytest.raises(UsageError, match=f"no profile of 'board-2': there is {HERE}"):
        Selector.open(finished_zoo, device="board-2")


def test_a_zoo_that_was_measured_elsewhere_serves_here_with_a_warning(
    zoo_copy: Path, images: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = Zoo.open(zoo_copy)
    profile = Profile.read(zoo.profile_path(HERE))
    zoo.profile_path(HERE).unlink()
    msgspec.structs.replace(profile, device_id="board-2").write(zoo.profile_path("board-2"))
    selector = Selector.open(zoo_copy)
    assert f"warning: no profile of this machine ({HERE}): going by the one of board-2" in capsys.readouterr().err
    assert selector.describe().device_id == "board-2"
    assert isinstance(selector.infer(images[0], FOREVER), Answer)
    Selector.open(zoo_copy, device="board-2")
    assert "no profile of this machine" not in capsys.readouterr().err


def test_a_zoo_with_no_current_profile_says_what_to_run(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    profile = Profile.read(zoo.profile_path(HERE))
    _, *rest = profile.measurements.items()
    msgspec.structs.replace(profile, measurements=dict(rest)).write(zoo.profile_path(HERE))
    with pytest.raises(ZooError, match=r"no current profile of any device: run "):
        Selector.open(zoo_copy)


def test_a_refusal_does_not_say_that_the_fastest_would_have_been_in_time(staircase: Path, images: Any) -> None:
    zoo = Zoo.open(staircase)
    profile = Profile.read(zoo.profile_path(HERE))
    wavering = {}
    for name, measured in profile.measurements.items():
        latency = msgspec.structs.replace(measured.latency, p95_ms=10 * measured.latency.mean_ms)
        wavering[name] = msgspec.structs.replace(measured, latency=latency)
    msgspec.structs.replace(profile, measurements=wavering).write(zoo.profile_path(HERE))
    with pytest.raises(OverBudgetError) as caught:
        Selector.open(staircase).infer(images[0], 500.0, on_miss="refuse")
    takes_ms = re.search(r"the fastest needs ([\d.e+]+) ms", str(caught.value))
    assert takes_ms is None or float(takes_ms[1]) > 500


# --- what it learns ---


def test_reported_latencies_change_what_is_expected_and_chosen(staircase: Path, images: Any) -> None:
    selector = Selector.open(staircase)
    before = selector.choose(images[0], 350.0)
    for _ in range(40):
        selector.report_latency(before.variant, 2 * before.expected_ms)
    after = selector.choose(images[0], 350.0)
    assert selector.stats().slowdown == pytest.approx(2, rel=0.02)
    assert after.expected_ms == pytest.approx(200, rel=0.02)
    assert after.variant == by_accuracy(staircase)[0]


@pytest.mark.parametrize("ms", [
    math.nan, 0, -1, "1", None, True,
    pytest.param(math.inf),
])  # fmt: skip
def test_a_latency_that_is_none_is_refused(selector: Selector, ms: Any) -> None:
    variant = next(iter(selector.describe().variants))
    with pytest.raises(RequestError):
        selector.report_latency(variant, ms)
    assert selector.stats().slowdown == 1.0


def test_a_refused_latency_is_called_a_latency(selector: Selector) -> None:
    variant = next(iter(selector.describe().variants))
    with pytest.raises(RequestError, match="latency"):
        selector.report_latency(variant, -1)


def test_a_latency_of_no_variant_is_refused(selector: Selector) -> None:
    with pytest.raises(RequestError, match="no variant 'base': there are "):
        selector.report_latency("base", 1.0)


# --- what it says about itself ---


def test_it_describes_what_it_serves(selector: Selector, finished_zoo: Path) -> None:
    manifest = Zoo.open(finished_zoo).manifest
    described = selector.describe()
    assert described.name == manifest.name
    assert described.classes == manifest.classes
    assert described.input_shape == (8, 8, 1)
    assert described.input_dtype == "float32"
    assert described.input_range == (0.0, 16.0)
    assert set(described.variants) == {variant.id for variant in manifest.variants}
    assert described.device_id == HERE


def test_eight_threads_get_the_answers_that_one_would_get(selector: Selector, images: Any, reference: Any) -> None:
    budgets = [INSTANT, 0.05, 0.2, FOREVER]
    answers: list[tuple[int, Answer]] = []

    def ask(offset: int) -> None:
        for step in range(200):
            index = (offset * 13 + step) % len(images)
            answers.append((index, selector.infer(images[index], budgets[step % len(budgets)])))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 1600
    for index, answer in answers:
        expected = reference[answer.variant][index]
        assert answer.index == expected.argmax()
        assert answer.confidence == pytest.approx(float(expected.max()), abs=1e-6)
    stats = selector.stats()
    assert stats.answers == 1600
    assert stats.chosen == Counter(answer.variant for _, answer in answers)
    assert stats.late == sum(not answer.within_budget for _, answer in answers)
    assert stats.refused == 0


# --- the cores that were profiled ---


@pytest.fixture
def pin_profile(zoo_copy: Path) -> Callable[[int], Path]:
    """A function that makes the zoo's profile of this machine one of a single core."""

    def write(core: int) -> Path:
        path = Zoo.open(zoo_copy).profile_path(HERE)
        msgspec.structs.replace(Profile.read(path), conditions=Conditions(cpus=(core,), threads=2)).write(path)
        return zoo_copy

    return write


def affinity_after_opening(path: Path, pinned: bool) -> set[int]:
    """The cores that a thread may run on, and any thread that it starts, once it opened a selector."""
    found: list[set[int]] = []

    def open_it() -> None:
        selector = Selector.open(path, pinned=pinned)
        assert selector.describe().device_id == HERE
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    (cores,) = found
    return cores


def test_a_service_s_selector_keeps_to_the_cores_that_were_profiled_and_an_app_s_does_not(
    pin_profile: Callable[[int], Path],
) -> None:
    everywhere = os.sched_getaffinity(0)
    path = pin_profile(max(everywhere))
    assert affinity_after_opening(path, pinned=True) == {max(everywhere)}
    assert affinity_after_opening(path, pinned=False) == everywhere
    assert os.sched_getaffinity(0) == everywhere


def test_cores_that_are_not_there_are_named(pin_profile: Callable[[int], Path]) -> None:
    path = pin_profile(4096)
    with pytest.raises(DeviceError, match=r"cannot run on cores \[4096\]: there are \["):
        Selector.open(path, pinned=True)
