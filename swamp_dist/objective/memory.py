"""What the objective holds on a rank, counted in bytes of float32 unless told. No tensors.

Shape letters: D embedding size, K prototypes.
"""

from __future__ import annotations

import math

FLOAT, BFLOAT16, INT, DOUBLE = 4, 2, 8, 8
_SCRATCH_ELEMENTS = 2**24
"""Kernel of a modality that a GPU holds at once, for its passes in the log domain: 64 MiB."""
_SOLVE_VECTORS = 24
"""Vectors of K that the solve holds per modality: potentials, masses, maxima and what is made of them."""


def queue_bytes(rows: int, embedding_dim: int, is_rounded: bool = False) -> int:
    """Bytes of `rows` pairs of embeddings with their sample ids; `is_rounded`: and with a copy in
    bfloat16."""
    return rows * (2 * embedding_dim * (FLOAT + (BFLOAT16 if is_rounded else 0)) + INT)


def items_bytes(capacity: int, rows: int) -> int:
    """Bytes that say which rows count: the items of all `capacity` rows, and where the `rows` here lie among
    them."""
    return (capacity + rows) * INT


def block_rows(
    rows: int, prototypes: int, score_memory: int, itemsize: int = FLOAT, on_gpu: bool = False
) -> int:
    """Rows whose scores and kernel of both modalities fit into `score_memory` bytes, at least 1 and at
    most all; fewer than all are solved a block at a time. On a GPU only `kernel_rows` of them have a
    kernel."""
    fitting = score_memory // (4 * prototypes * itemsize)
    if on_gpu:
        fitting = max(fitting, score_memory // (2 * prototypes * itemsize) - _scratch_rows(prototypes))
    return max(1, min(rows, fitting))


def kernel_rows(rows: int, prototypes: int, on_gpu: bool) -> int:
    """Rows of a block of `rows` that have memory for their kernel at once."""
    return min(rows, _scratch_rows(prototypes)) if on_gpu else rows


def _scratch_rows(prototypes: int) -> int:
    return max(1, _SCRATCH_ELEMENTS // prototypes)


def solve_bytes(
    rows: int, prototypes: int, score_memory: int, itemsize: int = FLOAT, on_gpu: bool = False
) -> int:
    """Bytes that solving `rows` rows holds at most: scores and kernel of a block, and vectors of rows and K;
    on a GPU column sums of an eighth of the rows too, which is what its programs write at most."""
    block = block_rows(rows, prototypes, score_memory, itemsize, on_gpu)
    kernel = kernel_rows(block, prototypes, on_gpu) + (math.ceil(block / 8) if on_gpu else 0)
    return itemsize * (2 * (block + kernel) * prototypes + 6 * block + 2 * _SOLVE_VECTORS * prototypes)
