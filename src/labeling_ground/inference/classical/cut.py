"""The minimum cut between object and background on the superpixel graph."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from labeling_ground.inference.classical.features import FloatArray, IntArray

_UNIT = 1000.0
"""Flow solvers want integers: costs are counted in thousandths."""

_LIMIT = 1e6
"""Most that one capacity may be; far above any finite cost, and far below the overflow of a sum in 32 bits."""


def minimum_cut(unary: FloatArray, ends: IntArray, pairwise: FloatArray, fixed: NDArray[np.int8]) -> NDArray[np.bool_]:
    """The labelling of least energy (Boykov and Jolly, 2001).

    Args:
        unary: ``[n]``, gain of being object over being background; negative where background is likelier.
        ends: ``[e, 2]``, edges.
        pairwise: ``[e]``, cost of cutting each edge, not negative.
        fixed: ``[n]``, 1 where a superpixel must be object, -1 where it must be background, 0 where it is free.

    Returns:
        ``bool [n]``, true on the object.
    """
    n = len(unary)
    answer = fixed > 0
    free = fixed == 0
    if not free.any():
        return np.asarray(answer)
    number = np.cumsum(free) - 1
    m = int(number[-1]) + 1
    gain = unary[free].astype(np.float64)
    a, b = ends[:, 0], ends[:, 1]
    # An edge to a fixed superpixel is a pull on its free end.
    for here, there in ((a, b), (b, a)):
        pulled = free[here] & ~free[there]
        sign = np.where(fixed[there[pulled]] > 0, 1.0, -1.0)
        gain += np.bincount(number[here[pulled]], sign * pairwise[pulled], m)
    inner = free[a] & free[b]
    capacity = np.clip(np.round(pairwise[inner] * _UNIT), 0, _LIMIT).astype(np.int32)
    pull = np.clip(np.round(gain * _UNIT), -_LIMIT, _LIMIT).astype(np.int32)
    if not len(capacity) or (pull >= 0).all() or (pull <= 0).all():
        answer[free] = pull > 0
        if len(capacity) and not (pull <= 0).all():
            answer[free] = True
        return np.asarray(answer)
    u, v = number[a[inner]], number[b[inner]]
    nodes = np.arange(m)
    source, sink = np.full(m, m), np.full(m, m + 1)
    # Both directions of every arc are there from the start, so the solver need not add the missing ones.
    rows = np.concatenate([u, v, source, nodes, nodes, sink])
    columns = np.concatenate([v, u, nodes, source, sink, nodes])
    none = np.zeros(m, np.int32)
    data = np.concatenate([capacity, capacity, np.maximum(pull, 0), none, np.maximum(-pull, 0), none])
    order = np.argsort(rows * (m + 2) + columns, kind="stable")
    matrix = from_sorted(rows[order], columns[order], data[order], m + 2)
    flow = maximum_flow(matrix, m, m + 1).flow
    # The flow has the matrix's own arcs in the matrix's own order: what is left of each is a difference of two arrays.
    left = np.flatnonzero(matrix.data > flow.data)
    residual = from_sorted(rows[order[left]], matrix.indices[left], np.ones(len(left)), m + 2)
    reached = breadth_first_order(residual, m, directed=True, return_predecessors=False)
    inside = np.zeros(m + 2, np.bool_)
    inside[reached] = True
    answer[free] = inside[:m]
    return np.asarray(answer).reshape(n)


def from_sorted(rows: NDArray[Any], columns: NDArray[Any], data: NDArray[Any], size: int) -> csr_array:
    """A square sparse matrix of entries that are in order already: several times faster than from unordered ones."""
    pointer = np.zeros(size + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=size), out=pointer[1:])
    return csr_array((data, columns.astype(np.int32), pointer), shape=(size, size))
