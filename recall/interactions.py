"""Who consumed what, as a sparse matrix, and where items without rows stand."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from envs.logs.schema import InteractionLog


def consumption_matrix(events: InteractionLog) -> csr_matrix:
    """[U, I] 1 where a user consumed an item, however often."""
    shape = (len(events.users), len(events.catalogue))
    matrix = csr_matrix((np.ones(len(events), np.float32), (events.user, events.item)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def new_rows(known: csr_matrix, matrix: csr_matrix) -> csr_matrix:
    """The entries of `matrix` that are not among the `known` ones."""
    new = csr_matrix(matrix - matrix.multiply(known))
    new.eliminate_zeros()
    return new


def from_parts(indptr: NDArray[np.int32], indices: NDArray[np.int32], num_items: int) -> csr_matrix:
    """The matrix of 1s with these rows and columns."""
    return csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(indptr) - 1, num_items))


def stand_at_category_means(
    vectors: NDArray[np.float32], seen: NDArray[np.bool_], categories: NDArray[np.float32]
) -> None:
    """Puts the `vectors` [I, d] of items not `seen` [I] at the means of their categories' seen items, in place.

    Categories [I, G] that no seen item has say nothing; an item of none that is known stands at the mean of all.
    """
    vectors[~seen] = category_means(vectors, seen, categories, ~seen)


def category_means(
    vectors: NDArray[np.float32], seen: NDArray[np.bool_], categories: NDArray[np.float32], items: NDArray[Any]
) -> NDArray[np.float32]:
    """[M, d] means of the `vectors` [I, d] of the items `seen` [I] in the categories of each of `items` (indices, or a mask)."""
    membership = categories[seen]
    means = (membership.T @ vectors[seen]) / np.maximum(membership.sum(axis=0), 1e-12)[:, None]
    share = categories[items] * (membership.sum(axis=0) > 0)
    total = share.sum(axis=1, keepdims=True)
    return np.where(total > 0, share @ means / np.maximum(total, 1e-12), vectors[seen].mean(axis=0))
