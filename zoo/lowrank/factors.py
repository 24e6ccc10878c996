"""Kernels as products of thinner ones: the mathematics of low-rank decomposition, in NumPy alone.

A kernel has the shape (*window, channels, filters); of a dense layer, the window has no dimensions. Schemes, with the
kernels of a 3×3 convolution at rank K, or at ranks R and S:

========  ===============================================  ==============================================
spatial   (3, 1, channels, K), (1, 3, K, filters)          Jaderberg et al., BMVC 2014, scheme 2
channel   (3, 3, channels, K), (1, 1, K, filters)          Zhang et al., arXiv:1411.4229, section 3.1
tucker    (1, 1, channels, R), (3, 3, R, S), (1, 1, S,     Kim et al., ICLR 2016, equations 3 to 5
          filters)
dense     (channels, K), (K, filters)                      the same as channel, without a window
========  ===============================================  ==============================================

The best kernels of a rank for given inputs reproduce what the layer responds to these: singular vectors are then those
of the responses, and not of the weights (Zhang et al., equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.recipe import Scheme

Rank = int | tuple[int, int]
"""How many components there are; of Tucker's scheme, how many of the channels and how many of the filters."""

Kernel = npt.NDArray[np.float32]
Patches = npt.NDArray[np.float32]
"""What a layer sees at some positions, of shape (positions, *window, channels)."""

_SWEEPS = 5
"""Rounds of alternating least squares for Tucker's scheme; after a few, nothing changes any more."""
_REGULAR = 1e-4
"""How much of the mean second moment of the inputs is added to each: what hardly varies is not to be anything."""
_TINY = 1e-12


def full_rank(shape: Sequence[int], scheme: Scheme) -> Rank:
    """The rank at which a decomposition is exact, of a kernel of that shape."""
    *window, channels, filters = shape
    if scheme == "tucker":
        return min(channels, math.prod(window) * filters), min(filters, math.prod(window) * channels)
    if scheme == "spatial":
        return min(window[0] * channels, window[1] * filters)
    return min(math.prod(window) * channels, filters)


def factorize(
    kernel: Kernel, scheme: Scheme, rank: Rank, patches: Patches | None = None, groups: int = 1
) -> tuple[Kernel, ...]:
    """The kernels whose product is nearest to a kernel, or responds nearest to how it does.

    Args:
        kernel: of shape (*window, channels, filters); of a grouped convolution, with the channels of one group.
        scheme: how it is decomposed.
        rank: of each group; what there is beyond ``full_rank`` is zeros.
        patches: inputs whose responses are to be reproduced, of all channels; without, the kernel itself is.
        groups: of the convolution.

    Returns:
        The kernels in the order of their layers.
    """
    parts = [_factorize(*of_group, scheme, rank) for of_group in of_groups(kernel, patches, groups)]
    return tuple(np.concatenate(kernels, axis=-1) for kernels in zip(*parts, strict=True))


def kept_energy(
    kernel: Kernel, scheme: Scheme, patches: Patches | None = None, groups: int = 1
) -> npt.NDArray[np.float64]:
    """The share of the energy (Σσ²) that each rank keeps, of the weights, or of the responses to some inputs.

    Returns:
        Of the shape of the full rank, for ranks 1, 2 and on; for Tucker's scheme it has two dimensions. A kernel of
        zeros loses nothing at any rank.
    """
    kept = sum(_kept(*of_group, scheme) for of_group in of_groups(kernel, patches, groups))
    assert isinstance(kept, np.ndarray)
    whole = kept.flat[-1]
    return np.minimum(kept / whole, 1.0) if whole else np.ones_like(kept)


def at_rank(kept: npt.NDArray[np.float64], rank: Rank) -> float:
    """The share of the energy that one rank keeps, of those that ``kept_energy`` tells."""
    return float(kept[tuple(np.subtract(rank, 1))] if isinstance(rank, tuple) else kept[rank - 1])


def of_groups(kernel: Kernel, patches: Patches | None, groups: int) -> Iterator[tuple[Kernel, Patches | None]]:
    """The kernel of each group, and what it sees."""
    channels = kernel.shape[-2]
    for number, own in enumerate(np.split(kernel, groups, axis=-1)):
        yield own, None if patches is None else patches[..., number * channels : (number + 1) * channels]


def _factorize(kernel: Kernel, patches: Patches | None, scheme: Scheme, rank: Rank) -> tuple[Kernel, ...]:
    if scheme == "tucker":
        assert isinstance(rank, tuple)
        return _tucker(kernel, *rank, patches)
    assert isinstance(rank, int)
    matrix = _as_matrix(kernel, scheme)
    directions = _principal(_seen(matrix, patches, scheme))[1][:, :rank]
    directions = np.pad(directions, [(0, 0), (0, rank - directions.shape[1])])
    return _from_matrices(*_balanced(matrix @ directions, directions.T), kernel.shape, scheme)


def _kept(kernel: Kernel, patches: Patches | None, scheme: Scheme) -> npt.NDArray[np.float64]:
    """The energy that each rank keeps."""
    if scheme == "tucker":
        rooted = _rooted(kernel, patches)[0]
        core = _projected(rooted, *_unfolded_directions(rooted))
        energy = np.square(core, dtype=np.float64).sum(axis=tuple(range(core.ndim - 2)))
        full = full_rank(kernel.shape, scheme)
        assert isinstance(full, tuple)
        kept: npt.NDArray[np.float64] = energy[: full[0], : full[1]].cumsum(axis=0).cumsum(axis=1)
        return kept
    full = full_rank(kernel.shape, scheme)
    assert isinstance(full, int)
    return _principal(_seen(_as_matrix(kernel, scheme), patches, scheme))[0][:full].cumsum()


def _seen(matrix: Kernel, patches: Patches | None, scheme: Scheme) -> Kernel:
    """What there is to reproduce: a kernel as a matrix, or its responses; and of these, a little of the kernel still.

    Inputs may say nothing about some of it, because they are few or much alike.
    """
    if patches is None:
        return matrix
    rows = _rows(patches, scheme)
    little = np.sqrt(_REGULAR * np.square(rows, dtype=np.float64).sum() / rows.shape[1])
    return np.concatenate([rows @ matrix, matrix * np.float32(little)])


def _as_matrix(kernel: Kernel, scheme: Scheme) -> Kernel:
    """Rows are what the first kernel reads, columns what the second makes: a rank of it is one of the decomposition."""
    if scheme != "spatial":
        return kernel.reshape(-1, kernel.shape[-1])
    height, width, channels, filters = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)


def _rows(patches: Patches, scheme: Scheme) -> Patches:
    """What the first kernel sees, a row for each time that it is used."""
    if scheme != "spatial":
        return patches.reshape(len(patches), -1)
    positions, height, width, channels = patches.shape
    return patches.transpose(0, 2, 1, 3).reshape(positions * width, height * channels)


def _from_matrices(first: Kernel, second: Kernel, shape: Sequence[int], scheme: Scheme) -> tuple[Kernel, Kernel]:
    *window, channels, filters = shape
    rank = len(second)
    if scheme != "spatial":
        return first.reshape(*window, channels, rank), second.reshape(*[1] * len(window), rank, filters)
    height, width = window
    across = second.reshape(rank, width, filters).transpose(1, 0, 2)
    return first.reshape(height, 1, channels, rank), across[np.newaxis]


def _principal(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], Kernel]:
    """The squared singular values of a matrix, descending, and its right singular vectors as columns.

    They are taken from the smaller Gram matrix. Small values get less exact by it, but not the product with the
    vectors, which are orthonormal all the same; and it takes a tenth of the time of a decomposition of the matrix.
    """
    rows, columns = matrix.shape
    wide = np.asarray(matrix, np.float64)
    if rows >= columns:
        values, vectors = np.linalg.eigh(wide.T @ wide)
        return np.maximum(values[::-1], 0), vectors[:, ::-1].astype(np.float32)
    values, left = np.linalg.eigh(wide @ wide.T)
    vectors = np.linalg.qr(wide.T @ left[:, ::-1])[0]
    return np.maximum(values[::-1], 0), vectors.astype(np.float32)


def _balanced(first: Kernel, second: Kernel) -> tuple[Kernel, Kernel]:
    """The same product, each component with as much of its scale in either factor: gradients are alike then."""
    norms = np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=1)
    scale = np.sqrt(np.maximum(norms[1], _TINY) / np.maximum(norms[0], _TINY))
    scale = np.where(norms[0] > _TINY, scale, 1.0).astype(np.float32)
    return first * scale, second / scale[:, np.newaxis]


def _tucker(kernel: Kernel, inner: int, outer: int, patches: Patches | None) -> tuple[Kernel, ...]:
    """Tucker-2 by higher-order orthogonal iteration (De Lathauwer et al., SIAM J. Matrix Anal. Appl. 21:4, 2000)."""
    rooted, unrooted = _rooted(kernel, patches)
    into, out = _unfolded_directions(rooted)
    into, out = into[:, :inner], out[:, :outer]
    if inner < kernel.shape[-2] and outer < kernel.shape[-1]:
        for _ in range(_SWEEPS):
            into = _directions(np.einsum("...cn,nk->...ck", rooted, out), axis=-2)[:, :inner]
            out = _directions(np.einsum("...cn,ck->...kn", rooted, into), axis=-1)[:, :outer]
    core = _projected(rooted, into, out)
    ones = [1] * (kernel.ndim - 2)
    first, last = (unrooted @ into).astype(np.float32), out.T
    return first.reshape(*ones, *first.shape), core.astype(np.float32), last.reshape(*ones, *last.shape)


def _rooted(kernel: Kernel, patches: Patches | None) -> tuple[Kernel, npt.NDArray[np.float64]]:
    """A kernel after the root of its input channels' second moments, and the root's inverse.

    What is nearest to the one is what responds nearest, as far as inputs at neighbouring positions are unlike.
    """
    channels = kernel.shape[-2]
    if patches is None:
        return kernel, np.eye(channels)
    rows = np.asarray(patches.reshape(-1, channels), np.float64)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    roots = np.sqrt(np.maximum(values, 0) + _REGULAR * max(values.mean(), _TINY))
    rooted = np.einsum("dc,...cn->...dn", (vectors * roots) @ vectors.T, kernel)
    return rooted.astype(np.float32), (vectors / roots) @ vectors.T


def _unfolded_directions(kernel: Kernel) -> tuple[Kernel, Kernel]:
    """The principal directions of the channels, and those of the filters."""
    return _directions(kernel, axis=-2), _directions(kernel, axis=-1)


def _directions(kernel: npt.NDArray[Any], axis: int) -> Kernel:
    """All principal directions of an axis as columns, also those in which there is nothing."""
    moved = np.asarray(np.moveaxis(kernel, axis, -1), np.float64)
    rows = moved.reshape(-1, moved.shape[-1])
    directions: Kernel = np.linalg.eigh(rows.T @ rows)[1][:, ::-1].astype(np.float32)
    return directions


def _projected(kernel: npt.NDArray[Any], into: Kernel, out: Kernel) -> npt.NDArray[Any]:
    projected: npt.NDArray[Any] = np.einsum("...cn,cr,ns->...rs", kernel, into, out, optimize=True)
    return projected
