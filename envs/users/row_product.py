"""The product of the DIEN-like user model's states with its weights, row by row, so that no row's bits depend on the others.

BLAS sums a row in an order that depends on where the row stands in the batch. A simulated user's life must not, so the product is
a kernel in which each row is summed by itself; `rows @ weight` is its plain twin.
"""

import numpy as np
from numpy.typing import NDArray

from envs.compiled import Floats2, Floats2Out, Int, Kernel, over_rows


@Kernel
def _multiply(begin: Int, end: Int, rows: Floats2, weight: Floats2, product: Floats2Out) -> None:
    """product[row] = rows[row] @ weight, the terms added in the order of the columns of `rows`."""
    for row in range(begin, end):
        for column in range(weight.shape[1]):
            product[row, column] = np.float32(0)
        for term in range(weight.shape[0]):
            factor = rows[row, term]
            for column in range(weight.shape[1]):
                product[row, column] += factor * weight[term, column]


def row_product(rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., b] of `rows` [..., a] and `weight` [a, b]."""
    flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]), np.float32)
    product = np.empty((len(flat), weight.shape[1]), np.float32)
    over_rows(_multiply, len(flat), flat, np.ascontiguousarray(weight, np.float32), product)
    return product.reshape(*rows.shape[:-1], weight.shape[1])
