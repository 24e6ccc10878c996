"""The variants of a zoo, open and warm, run by many at once and within a limit of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import ModelError, UsageError, ZooError
from fleetfoot.files import sha256
from profiling.invoke import Runner
from runtime.engine import Engine
from zoo.catalog import Manifest, Zoo

PATIENCE_S = 60.0


@pytest.fixture
def family(finished_zoo: Path) -> Zoo:
    """A zoo of subnetworks that are nested in one file."""
    zoo = Zoo.open(finished_zoo)
    family = tuple(variant for variant in zoo.manifest.variants if "subnetworks" in variant.file)
    assert len({variant.file for variant in family}) == 1 < len(family)
    return Zoo(finished_zoo, msgspec.structs.replace(zoo.manifest, variants=family))


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that makes every run of more than zeros wait until so many run at once."""
    run = Runner.__call__

    def meet(number: int) -> None:
        barrier = threading.Barrier(number)

        def run_together(runner: Runner, values: Any) -> Any:
            if values.any():
                barrier.wait(PATIENCE_S)
            return run(runner, values)

        monkeypatch.setattr(Runner, "__call__", run_together)

    return meet


def test_every_variant_answers_as_its_file_does(finished_zoo: Path, images: Any, reference: Any) -> None:
    engine = Engine(Zoo.open(finished_zoo))
    assert set(engine.variants) == set(reference)
    for variant, expected in reference.items():
        answered = np.stack([engine.run(variant, image[np.newaxis]) for image in images[:20]])
        np.testing.assert_allclose(answered, expected[:20], atol=1e-6)


def test_subnetworks_of_one_file_can_be_run_in_turn_and_at_once(
    finished_zoo: Path, images: Any, reference: Any
) -> None:
    zoo = Zoo.open(finished_zoo)
    nested = [name for name, variant in zoo.variants.items() if "subnetworks" in variant.file]
    assert len({zoo.variants[name].file for name in nested}) == 1 < len(nested)
    engine = Engine(zoo)
    wrong: list[str] = []

    def run(variant: str) -> None:
        for index, image in enumerate(images):
            if not np.allclose(engine.run(variant, image[np.newaxis]), reference[variant][index], atol=1e-6):
                wrong.append(variant)

    threads = [threading.Thread(target=run, args=(variant,)) for variant in nested * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("damage", ["changed", "missing", "empty"])
def test_a_damaged_variant_is_left_out_with_a_warning(
    zoo_copy: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = Zoo.open(zoo_copy)
    base, *others = zoo.variants
    file = zoo_copy / zoo.variants[base].file
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else file.read_bytes() + b"\0")
    assert set(Engine(zoo).variants) == set(others)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {base} is left out: {file} is ")
    assert "build the zoo anew" in line


def test_a_damaged_file_takes_all_subnetworks_in_it_along(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    nested = {name for name, variant in zoo.variants.items() if "subnetworks" in variant.file}
    (zoo_copy / zoo.variants[min(nested)].file).write_bytes(b"damaged")
    assert set(Engine(zoo).variants) == set(zoo.variants) - nested


def test_a_file_that_is_no_model_though_recorded_is_left_out(
    zoo_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(zoo_copy / Zoo.MANIFEST)
    base, *others = manifest.variants
    (zoo_copy / base.file).write_bytes(b"no model")
    changed = msgspec.structs.replace(base, sha256=sha256(zoo_copy / base.file))
    zoo = Zoo(zoo_copy, msgspec.structs.replace(manifest, variants=(changed, *others)))
    assert set(Engine(zoo).variants) == {variant.id for variant in others}
    assert "no LiteRT model" in capsys.readouterr().err


def test_a_zoo_with_no_usable_variant_is_refused(zoo_copy: Path) -> None:
    for file in (zoo_copy / "variants").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(ZooError, match="has no variant that can be used"):
        Engine(Zoo.open(zoo_copy))


@pytest.mark.parametrize("variants", [(0, 1), (1, 1)])
def test_two_run_at_once(
    family: Zoo, images: Any, reference: Any, variants: tuple[int, int], met: Callable[[int], None]
) -> None:
    engine = Engine(family)
    names = [engine.variants[index] for index in variants]
    met(2)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda name: engine.run(name, images[:1]), names))
    for name, answer in zip(names, answers, strict=True):
        np.testing.assert_allclose(answer, reference[name][0], atol=1e-6)


def test_signatures_of_one_model_share_its_interpreters(
    family: Zoo, tmp_path: Path, met: Callable[[int], None]
) -> None:
    from zoo.backend import tf
    from zoo.export import Endpoint, convert

    def times(factor: int) -> Endpoint:
        return Endpoint(lambda x: {"product": factor * x}, tf.TensorSpec([1, 3], tf.float32, name="input"))

    first, second, *_ = family.manifest.variants
    file = tmp_path / first.file
    file.parent.mkdir()
    file.write_bytes(convert({first.id: times(2), second.id: times(3)}))
    variants = tuple(msgspec.structs.replace(variant, sha256=sha256(file)) for variant in (first, second))
    engine = Engine(Zoo(tmp_path, msgspec.structs.replace(family.manifest, variants=variants)))
    taken = engine.memory_bytes
    met(2)
    ones = np.ones((1, 3), np.float32)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda name: engine.run(name, ones)[0], [first.id, second.id] * 4))
    assert answers == [2, 3] * 4
    assert engine.memory_bytes == 2 * taken


def test_no_more_run_at_once_than_there_are_interpreters(
    family: Zoo, images: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(family, interpreters=2)
    name = engine.variants[0]
    run, running, most = Runner.__call__, set[int](), 0

    def counted(runner: Runner, values: Any) -> Any:
        nonlocal most
        running.add(threading.get_ident())
        most = max(most, len(running))
        answer = run(runner, values)
        running.discard(threading.get_ident())
        return answer

    monkeypatch.setattr(Runner, "__call__", counted)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda image: engine.run(name, image[np.newaxis]), images))
    np.testing.assert_allclose(answers, reference[name], atol=1e-6)
    assert most <= 2


@pytest.mark.parametrize("share", [1.0, 1.5, 2.5, None])
def test_many_threads_get_right_answers_within_the_memory_limit(
    family: Zoo, images: Any, reference: Any, share: float | None
) -> None:
    limit = None if share is None else int(share * largest(family))
    engine = Engine(family, interpreters=3, memory_limit=limit)
    assert set(engine.variants) == {variant.id for variant in family.manifest.variants}

    def ask(number: int) -> tuple[float, int]:
        name, index = engine.variants[number % len(engine.variants)], number % len(images)
        answer = engine.run(name, images[index : index + 1])
        return float(np.abs(answer - reference[name][index]).max()), engine.memory_bytes

    with ThreadPoolExecutor(6) as threads:
        errors, taken = zip(*threads.map(ask, np.random.default_rng(0).integers(0, 1000, 150)), strict=True)
    assert max(errors) < 1e-6
    assert limit is None or max(taken) <= limit


def largest(zoo: Zoo) -> int:
    """What an interpreter takes of the variant that takes most, and a little more: no two measurements are equal."""
    engines = (
        Engine(Zoo(zoo.path, msgspec.structs.replace(zoo.manifest, variants=(variant,))))
        for variant in zoo.manifest.variants
    )
    return max(engine.memory_bytes for engine in engines) + (256 << 10)


def test_variants_that_are_asked_for_all_the_time_let_others_run(family: Zoo, images: Any) -> None:
    engine = Engine(family, memory_limit=largest(family))
    busy, other, *_ = engine.variants
    ended = threading.Event()

    def ask_on() -> None:
        while not ended.is_set():
            engine.run(busy, images[:1])

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask_on) for _ in range(3)]
        try:
            for _ in range(5):
                threads.submit(engine.run, other, images[:1]).result(PATIENCE_S)
        finally:
            ended.set()
    assert all(one.exception() is None for one in asking)


def test_what_never_fits_the_memory_limit_is_left_out(family: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZooError, match="has no variant that can be used"):
        Engine(family, memory_limit=1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [variant.id for variant in family.manifest.variants]
    assert all("bytes, and the memory limit is 1000" in line for line in lines)


def test_a_variant_that_cannot_be_opened_now_can_be_when_its_file_is_back(
    family: Zoo, zoo_copy: Path, images: Any, reference: Any
) -> None:
    zoo = Zoo(zoo_copy, family.manifest)
    engine = Engine(zoo, memory_limit=largest(zoo))
    file, away = zoo_copy / family.manifest.variants[0].file, zoo_copy / "away"
    file.rename(away)
    with pytest.raises(ModelError):
        for name in engine.variants * 2:
            engine.run(name, images[:1])
    away.rename(file)
    for name in engine.variants * 2:
        np.testing.assert_allclose(engine.run(name, images[:1]), reference[name][0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interpreters": 0}, "at least one interpreter, and not 0"),
        ({"memory_limit": 0}, "a positive number of bytes, and not 0"),
    ],
)
def test_an_engine_without_interpreters_or_memory_is_refused(family: Zoo, options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Engine(family, **options)
