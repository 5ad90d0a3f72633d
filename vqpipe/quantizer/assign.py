"""Assignment routes: how the nearest codeword of each sub-vector is found.

All routes minimise ||x - c||^2 through ``x.c - |c|^2 / 2`` on rows and codewords from which the offset
was subtracted. On all but the fused one a row's result may depend, in the last bit, on the block that it
is computed in; so blocks have one size, are counted from the first row given, and the last is padded
with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import faiss
import numpy as np

from vqpipe.codebook import SURPLUS, CodebookSpec
from vqpipe.dtypes import Float32, Labels
from vqpipe.errors import CodebookError, VqpipeError
from vqpipe.kernels import NearestCodewords, can_compile
from vqpipe.quantizer.grouped import count_groups, make_grouped

RouteName = Literal["fused", "product", "flat", "grouped"]

# From a column and one block of its sub-vectors to their labels.
Search = Callable[[int, Float32], Labels]

# Rows of the fused route are planned in such blocks; their labels do not depend on them.
FUSED_BLOCK_ROWS = 256

# 256 rows by 1,024 codewords of float32 stay in a 2 MB second-level cache; measured at 80-150% of the
# speed of FAISS's best case for 4 to 128 dims, and without its cliffs for small blocks.
PRODUCT_BLOCK_ROWS = 256
PRODUCT_BLOCK_CODEWORDS = 1024

# FAISS's flat search falls off a cliff below rows * dim of about 128,000: 16,384 rows suffice for 8 dims.
FLAT_BLOCK_ROWS = 16_384

# From so many codewords on, groups pay: with 12 probes 2.9 to 5.6 times as fast as comparing all of 16,384
# codewords, at 0.1 to 0.5% more distortion of the rows so assigned; 8.6 and 9.3 times of 65,536.
LEAST_GROUPED_CODEWORDS = 8192
FIRST_PROBES = 12
# Each of 256 groups is visited by some 200 of so many rows.
GROUPED_BLOCK_ROWS = 4_096

# A route is read from files: far more than any that is chosen would be memory taken.
MOST_BLOCK_ROWS, MOST_PROBES = 1 << 16, 1 << 12

# The half squared norm of a codeword that must never be chosen.
_NEVER = np.float32(np.finfo(np.float32).min / 2)


@dataclass(frozen=True, slots=True)
class Route:
    """A way to assign rows, fixed once per generation and used for training and encoding alike.

    Attributes
    ----------
    name : str
        ``fused``: machine code for this CPU that keeps scores in registers. ``product``: cache-sized blocks
        of a NumPy product and argmax. ``flat``: a FAISS flat index per column on large blocks. These two
        are for CPUs without fused multiply-adds and for codebooks of earlier versions. ``grouped``: only
        the groups of codewords nearest to a row; that misses some rows' nearest codewords.
    block_rows : int
        Rows that are computed together.
    probes : int
        Groups that a row looks into, where they are grouped.
    """

    name: RouteName
    block_rows: int
    probes: int = 0

    def __post_init__(self) -> None:
        counts = type(self.block_rows) is int is type(self.probes)
        if self.name not in get_args(RouteName) or not counts:
            raise CodebookError(f"{self}: there is no such route")
        if not (1 <= self.block_rows <= MOST_BLOCK_ROWS and 0 <= self.probes <= MOST_PROBES):
            raise CodebookError(
                f"{self}: blocks have 1 to {MOST_BLOCK_ROWS} rows, which look into at most {MOST_PROBES} groups"
            )


def choose_route(spec: CodebookSpec, dim: int, *, compiled: bool = True) -> Route:
    """Return the route for a codebook's shape, by what was measured for such shapes.

    Parameters
    ----------
    spec : CodebookSpec
    dim : int
    compiled : bool
        Whether machine code may be made, where this CPU can run it.

    Notes
    -----
    The fused route was faster for every shape, 1.2 to 4 times. Without it, for sub-vectors of 8 to 39 dims
    FAISS's own fused kernel is up to 2.6 times as fast, but only on blocks of 16,384 rows.

    It is a rule, and no timing when a run begins: of two runs at once on a busy machine a timing chose
    different routes, and their codes then differed at float ties.
    """
    if compiled and can_compile():
        return Route("fused", FUSED_BLOCK_ROWS)
    if 8 <= dim // spec.m < 40 and spec.k >= 1024:
        return Route("flat", FLAT_BLOCK_ROWS)
    return Route("product", PRODUCT_BLOCK_ROWS)


def choose_search(probes: int) -> Route:
    """Return the route for training: through groups of codewords if ``probes`` says so.

    Batches are too small to fill the flat route's blocks.
    """
    if probes:
        return Route("grouped", GROUPED_BLOCK_ROWS, probes)
    if can_compile():
        return Route("fused", FUSED_BLOCK_ROWS)
    return Route("product", PRODUCT_BLOCK_ROWS)


def compared_codewords(spec: CodebookSpec, route: Route) -> int:
    """Return about how many codewords of each column a row is compared with by a route."""
    if route.name != "grouped":
        return spec.k
    groups = count_groups(spec.k)
    return groups + spec.k * route.probes // groups


def first_probes(spec: CodebookSpec) -> int:
    """Return how many groups a row looks into when training begins; 0 for all codewords."""
    pays = spec.m == 1 and spec.k >= LEAST_GROUPED_CODEWORDS
    return FIRST_PROBES if pays else 0


def more_probes(spec: CodebookSpec, probes: int) -> int:
    """Return the next larger number of groups; 0 for all codewords, once the half are looked at."""
    more = 2 * probes
    return more if 2 * more <= count_groups(spec.k) else 0


def probes_to_judge(spec: CodebookSpec) -> list[int]:
    """Return the numbers of groups that encoding chooses from, fewest first; none where groups do not pay.

    Closer together than `more_probes` takes them: all are judged at once, and a third fewer groups are a
    third less time for every row.

    Examples
    --------
    >>> probes_to_judge(CodebookSpec("KM", 1, 16_384))
    [6, 8, 12, 16, 24, 32, 48, 64]
    """
    most = count_groups(spec.k) // 2 if first_probes(spec) else 0
    doublings = (FIRST_PROBES // 2 << times for times in range(most.bit_length()))
    return [
        probes for fewest in doublings for probes in (fewest, fewest * 4 // 3) if probes <= most
    ]


def make_assigner(centroids: Float32, route: Route) -> Callable[[Float32], Labels]:
    """Return the function that finds the nearest codewords of centred rows.

    Parameters
    ----------
    centroids : float32 array of shape (m, k, dim / m)
        Of one stage, offset subtracted.
    route : Route

    Returns
    -------
    callable
        From float32 rows of shape (rows, dim), offset subtracted, to labels of shape (rows, m).

    Raises
    ------
    VqpipeError
        When called, if a label is no codeword's (FAISS gives -1 for NaN).
    """
    if route.name == "grouped":
        find = make_grouped(centroids[0], route.probes)
        return lambda rows: find(rows)[:, None]
    if route.name == "fused":
        if can_compile():
            return _fused(centroids)
        # Another machine chose it: the same labels but for float ties.
        route = Route("product", PRODUCT_BLOCK_ROWS)
    begin = _product(centroids, route.block_rows) if route.name == "product" else _flat(centroids)
    m, k, width = centroids.shape
    size = route.block_rows

    def assign(rows: Float32) -> Labels:
        search = begin()
        labels = np.empty((len(rows), m), dtype=np.intp)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            found = len(block)
            if found < size:
                block = np.concatenate([block, np.zeros((size - found, m * width), np.float32)])
            columns = np.ascontiguousarray(block.reshape(size, m, width).transpose(1, 0, 2))
            for column in range(m):
                labels[start : start + found, column] = search(column, columns[column])[:found]
        _check_labels(labels, k, route.name)
        return labels

    return assign


def _check_labels(labels: Labels, k: int, name: RouteName) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < k):
        raise VqpipeError(
            f"a label outside 0..{k - 1} came back from route {name!r}: rows were not checked"
        )


def _fused(centroids: Float32) -> Callable[[Float32], Labels]:
    codewords = NearestCodewords(centroids, (centroids == SURPLUS).all(axis=2))

    def assign(rows: Float32) -> Labels:
        labels = codewords.find(rows).astype(np.intp)
        _check_labels(labels, centroids.shape[1], "fused")
        return labels

    return assign


def _product(centroids: Float32, block_rows: int) -> Callable[[], Search]:
    m, k, width = centroids.shape
    surplus = (centroids == SURPLUS).all(axis=2)
    # One more dim holds the half norms, against a constant 1 in the rows: one product, no second pass.
    placed = np.where(surplus[:, :, None], np.float32(0), centroids)
    table = np.empty((m, width + 1, k), dtype=np.float32)
    table[:, :width] = placed.transpose(0, 2, 1)
    halves = -0.5 * np.einsum("mkw,mkw->mk", placed, placed, dtype=np.float64)
    table[:, width] = np.where(surplus, _NEVER, halves)
    size = min(k, PRODUCT_BLOCK_CODEWORDS)
    every = np.arange(block_rows)

    def begin() -> Search:
        # Of each caller's own: a quantizer may be shared by threads.
        operand = np.ones((block_rows, width + 1), dtype=np.float32)
        scores = np.empty((block_rows, size), dtype=np.float32)

        def search(column: int, rows: Float32) -> Labels:
            operand[:, :width] = rows
            best: Labels = np.matmul(operand, table[column, :, :size], out=scores).argmax(axis=1)
            score = scores[every, best]
            for start in range(size, k, size):
                part = table[column, :, start : start + size]
                block = np.matmul(operand, part, out=scores if part.shape[1] == size else None)
                found = block.argmax(axis=1)
                found_score = block[every, found]
                # Strictly greater: of equal ones the first stays, as in a single argmax.
                better = found_score > score
                best[better] = found[better] + start
                score[better] = found_score[better]
            return best

        return search

    return begin


def _flat(centroids: Float32) -> Callable[[], Search]:
    indexes = []
    for column in centroids:
        index = faiss.IndexFlatL2(column.shape[1])
        index.add(np.ascontiguousarray(column))
        indexes.append(index)

    def search(column: int, rows: Float32) -> Labels:
        _, labels = indexes[column].search(rows, 1)
        found: Labels = labels[:, 0].astype(np.intp, copy=False)
        return found

    return lambda: search
