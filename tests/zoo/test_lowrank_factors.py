"""Kernels as products of thinner ones: how near they are, what they keep, and what they answer to inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.lowrank.factors import Kernel, Patches, Rank, factorize, full_rank, kept_energy, of_groups
from zoo.recipe import Scheme

Array = npt.NDArray[Any]

CASES: list[tuple[Scheme, tuple[int, ...]]] = [
    ("spatial", (3, 3, 5, 6)),
    ("spatial", (2, 4, 6, 3)),
    ("channel", (3, 3, 5, 6)),
    ("channel", (3, 4, 7)),
    ("channel", (1, 1, 8, 6)),
    ("channel", (2, 2, 2, 3, 4)),
    ("tucker", (3, 3, 5, 6)),
    ("tucker", (3, 12, 2)),
    ("tucker", (3, 3, 1, 20)),
    ("tucker", (2, 2, 2, 3, 4)),
    ("dense", (9, 5)),
    ("dense", (5, 9)),
]
cases = pytest.mark.parametrize(("scheme", "shape"), CASES, ids=lambda value: str(value).replace(" ", ""))
matrices = pytest.mark.parametrize(
    ("scheme", "shape"), [case for case in CASES if case[0] != "tucker"], ids=lambda value: str(value).replace(" ", "")
)


def a_kernel(shape: Sequence[int], seed: int = 0) -> Kernel:
    """Random, with a spectrum that falls, as trained kernels have it."""
    random = np.random.default_rng(seed)
    scales = 0.7 ** np.arange(shape[-2])[:, np.newaxis] * 0.8 ** np.arange(shape[-1])
    return (random.normal(size=shape) * scales).astype(np.float32)


def some_patches(shape: Sequence[int], count: int = 400, seed: int = 0, groups: int = 1) -> Patches:
    """Inputs of which channels and neighbours are much alike."""
    random = np.random.default_rng(seed)
    *window, channels = (*shape[:-2], shape[-2] * groups)
    size = math.prod(window) * channels
    mixed = random.normal(size=(count, size)) * 0.6 ** np.arange(size) @ random.normal(size=(size, size))
    return mixed.reshape(count, *window, channels).astype(np.float32)


def product(kernels: Sequence[Kernel], scheme: Scheme) -> Array:
    """The kernel that does what the kernels do one after the other."""
    if scheme == "spatial":
        first, last = kernels
        made: Array = np.einsum("hxcr,ywrn->hwcn", first, last)
        return made
    if scheme == "tucker":
        first, core, last = kernels
        into, out = first.reshape(first.shape[-2:]), last.reshape(last.shape[-2:])
        made = np.einsum("cr,...rs,sn->...cn", into, core, out)
        return made
    first, last = kernels
    made = first @ last.reshape(last.shape[-2:])
    return made


def matrix_of(kernel: Array, scheme: Scheme) -> Array:
    if scheme == "spatial":
        height, width, channels, filters = kernel.shape
        return kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)
    return kernel.reshape(-1, kernel.shape[-1])


def responses(patches: Patches, kernel: Array) -> Array:
    made: Array = patches.reshape(len(patches), -1) @ kernel.reshape(-1, kernel.shape[-1])
    return made


def half(full: Rank) -> Rank:
    return tuple(-(-most // 2) for most in full) if isinstance(full, tuple) else -(-full // 2)  # type: ignore[return-value]


def squared(array: Array) -> float:
    return float(np.square(array, dtype=np.float64).sum())


@cases
@pytest.mark.parametrize("seen", [False, True], ids=["weights", "responses"])
def test_at_full_rank_the_product_is_the_kernel(scheme: Scheme, shape: tuple[int, ...], seen: bool) -> None:
    kernel = a_kernel(shape)
    kernels = factorize(kernel, scheme, full_rank(shape, scheme), some_patches(shape) if seen else None)
    assert np.linalg.norm(product(kernels, scheme) - kernel) < 1e-5 * np.linalg.norm(kernel)


@pytest.mark.parametrize(
    ("scheme", "shape", "rank", "shapes"),
    [
        ("spatial", (3, 4, 5, 6), 7, [(3, 1, 5, 7), (1, 4, 7, 6)]),
        ("channel", (3, 4, 5, 6), 4, [(3, 4, 5, 4), (1, 1, 4, 6)]),
        ("channel", (3, 5, 6), 4, [(3, 5, 4), (1, 4, 6)]),
        ("tucker", (3, 4, 5, 6), (2, 4), [(1, 1, 5, 2), (3, 4, 2, 4), (1, 1, 4, 6)]),
        ("tucker", (2, 2, 2, 5, 6), (2, 4), [(1, 1, 1, 5, 2), (2, 2, 2, 2, 4), (1, 1, 1, 4, 6)]),
        ("dense", (5, 6), 3, [(5, 3), (3, 6)]),
    ],
)
def test_the_kernels_have_the_shapes_of_their_layers(
    scheme: Scheme, shape: tuple[int, ...], rank: Rank, shapes: list[tuple[int, ...]]
) -> None:
    kernels = factorize(a_kernel(shape), scheme, rank)
    assert [kernel.shape for kernel in kernels] == shapes
    assert {kernel.dtype for kernel in kernels} == {np.dtype(np.float32)}


@matrices
@given(seed=st.integers(0, 1000), part=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_no_kernels_of_a_rank_are_nearer(scheme: Scheme, shape: tuple[int, ...], seed: int, part: float) -> None:
    kernel = a_kernel(shape, seed)
    full = full_rank(shape, scheme)
    assert isinstance(full, int)
    rank = 1 + round(part * (full - 1))
    # Eckart and Young: nothing of this rank is nearer than by the singular values that are left out.
    values = np.linalg.svd(matrix_of(kernel, scheme).astype(np.float64), compute_uv=False)
    error = np.linalg.norm(product(factorize(kernel, scheme, rank), scheme) - kernel)
    assert error == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-3, abs=1e-5)
    kept = kept_energy(kernel, scheme)
    np.testing.assert_allclose(kept, (np.cumsum(values**2) / np.sum(values**2))[:full], rtol=1e-6)


@cases
@pytest.mark.parametrize("seen", [False, True], ids=["weights", "responses"])
def test_more_rank_keeps_more_energy_and_the_full_rank_all(scheme: Scheme, shape: tuple[int, ...], seen: bool) -> None:
    kept = kept_energy(a_kernel(shape), scheme, some_patches(shape) if seen else None)
    full = full_rank(shape, scheme)
    assert kept.shape == (full if isinstance(full, tuple) else (full,))
    assert kept.min() > 0
    assert kept.max() <= 1
    assert kept.flat[-1] == pytest.approx(1)
    for axis in range(kept.ndim):
        assert (np.diff(kept, axis=axis) >= 0).all()


@given(seed=st.integers(0, 1000), inner=st.integers(1, 5), outer=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_tucker_keeps_at_least_the_energy_that_is_told(seed: int, inner: int, outer: int) -> None:
    kernel = a_kernel((3, 3, 5, 6), seed)
    told = kept_energy(kernel, "tucker")[inner - 1, outer - 1]
    left_out = squared(product(factorize(kernel, "tucker", (inner, outer)), "tucker") - kernel) / squared(kernel)
    assert 1 - left_out >= told - 1e-6
    assert told >= 1 - 2 * left_out - 1e-6  # within twice of the best, which loses no more than this (De Lathauwer)


@pytest.mark.parametrize(("shape", "rank"), [((3, 12, 4), (12, 1)), ((3, 3, 2, 20), (1, 18)), ((3, 12, 40), (2, 30))])
def test_tucker_takes_ranks_of_which_one_is_more_than_the_other_can_use(
    shape: tuple[int, ...], rank: tuple[int, int]
) -> None:
    kernel = a_kernel(shape)
    for seen in (None, some_patches(shape, 20)):
        first, core, last = factorize(kernel, "tucker", rank, seen)
        assert (first.shape[-1], core.shape[-2:], last.shape[-2]) == (rank[0], rank, rank[1])
        assert np.isfinite(product((first, core, last), "tucker")).all()
    assert squared(product(factorize(kernel, "tucker", rank), "tucker") - kernel) <= squared(kernel) * (
        1 - kept_energy(kernel, "tucker")[rank[0] - 1, rank[1] - 1] + 1e-6
    )


@cases
def test_a_kernel_of_zeros_loses_nothing_and_stays_zero(scheme: Scheme, shape: tuple[int, ...]) -> None:
    kernel = np.zeros(shape, np.float32)
    for seen in (None, some_patches(shape)):
        assert (kept_energy(kernel, scheme, seen) == 1).all()
        kernels = factorize(kernel, scheme, half(full_rank(shape, scheme)), seen)
        np.testing.assert_allclose(product(kernels, scheme), kernel, atol=1e-12)


@cases
def test_inputs_of_zeros_tell_nothing_and_break_nothing(scheme: Scheme, shape: tuple[int, ...]) -> None:
    kernel, seen = a_kernel(shape), np.zeros_like(some_patches(shape))
    kernels = factorize(kernel, scheme, full_rank(shape, scheme), seen)
    assert all(np.isfinite(one).all() for one in kernels)
    assert np.isfinite(kept_energy(kernel, scheme, seen)).all()


@cases
def test_groups_are_decomposed_each_by_itself(scheme: Scheme, shape: tuple[int, ...]) -> None:
    if scheme == "dense":
        pytest.skip("dense layers have no groups")
    groups = 3
    several = [a_kernel(shape, seed) for seed in range(groups)]
    kernel, seen = np.concatenate(several, axis=-1), some_patches(shape, groups=groups)
    rank = half(full_rank(shape, scheme))
    at = tuple(np.atleast_1d(np.subtract(rank, 1)))
    for patches in (None, seen):
        kernels = factorize(kernel, scheme, rank, patches, groups)
        owns = [factorize(own, scheme, rank, sees) for own, sees in of_groups(kernel, patches, groups)]
        for together, *apart in zip(kernels, *owns, strict=True):
            np.testing.assert_array_equal(together, np.concatenate(apart, axis=-1))
    energies = [squared(own) for own in several]
    shares = [kept_energy(own, scheme)[at] for own in several]
    together = kept_energy(kernel, scheme, None, groups)[at]
    assert together == pytest.approx(np.average(shares, weights=energies), rel=1e-6)


@pytest.mark.parametrize(
    ("scheme", "shape"),
    [("spatial", (3, 3, 5, 6)), ("channel", (3, 3, 5, 6)), ("tucker", (3, 3, 8, 9)), ("dense", (20, 12))],
)
@pytest.mark.parametrize("seed", range(3))
def test_kernels_for_some_inputs_answer_these_better(scheme: Scheme, shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    kernel = random.normal(size=shape).astype(np.float32)
    mixing = np.float32(random.normal(size=(shape[-2],) * 2) * 0.5 ** np.arange(shape[-2])[:, np.newaxis])
    patches = random.normal(size=(2000, *shape[:-1])).astype(np.float32) @ mixing
    learned, unseen = patches[:1000], patches[1000:]
    full = full_rank(shape, scheme)
    rank: Rank = (4, 5) if isinstance(full, tuple) else full // 3
    errors = [
        squared(responses(unseen, product(factorize(kernel, scheme, rank, seen), scheme) - kernel))
        for seen in (None, learned)
    ]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(("scheme", "shape"), [("channel", (3, 3, 5, 6)), ("dense", (9, 5)), ("channel", (4, 7))])
def test_the_energy_of_responses_is_what_the_kernels_really_keep(scheme: Scheme, shape: tuple[int, ...]) -> None:
    kernel, patches = a_kernel(shape), some_patches(shape)
    whole = squared(responses(patches, kernel))
    for rank, kept in enumerate(kept_energy(kernel, scheme, patches), 1):
        error = squared(responses(patches, product(factorize(kernel, scheme, rank, patches), scheme) - kernel))
        assert kept == pytest.approx(1 - error / whole, abs=2e-3)


@matrices
def test_both_factors_have_as_much_of_the_scale(scheme: Scheme, shape: tuple[int, ...]) -> None:
    for patches in (None, 100 * some_patches(shape)):
        first, last = factorize(a_kernel(shape), scheme, half(full_rank(shape, scheme)), patches)
        into = np.linalg.norm(first.reshape(-1, first.shape[-1]), axis=0)
        out = np.linalg.norm(np.moveaxis(last, -2, 0).reshape(last.shape[-2], -1), axis=1)
        np.testing.assert_allclose(into, out, rtol=1e-3)


@cases
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_inputs_than_the_rank_are_enough(scheme: Scheme, shape: tuple[int, ...], count: int) -> None:
    kernel, patches = a_kernel(shape), some_patches(shape, count)
    full = full_rank(shape, scheme)
    kernels = factorize(kernel, scheme, full, patches)
    assert relative(responses(patches, product(kernels, scheme)), responses(patches, kernel)) < 1e-3
    assert kept_energy(kernel, scheme, patches).shape == np.shape(kept_energy(kernel, scheme))
    assert all(np.isfinite(one).all() for one in factorize(kernel, scheme, half(full), patches))


def relative(one: Array, other: Array) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("shape", "scheme", "rank"),
    [
        ((3, 3, 4, 100), "spatial", 12),
        ((3, 3, 100, 4), "spatial", 12),
        ((3, 3, 4, 100), "channel", 36),
        ((3, 3, 100, 4), "channel", 4),
        ((3, 3, 4, 100), "tucker", (4, 36)),
        ((3, 3, 100, 4), "tucker", (36, 4)),
        ((10, 20), "dense", 10),
    ],
)
def test_full_ranks(shape: tuple[int, ...], scheme: Scheme, rank: Rank) -> None:
    assert full_rank(shape, scheme) == rank
