"""What every index over item vectors can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.errors import ConfigurationError


class VectorIndex(ABC):
    """Finds the items of largest inner product with a query."""

    kind: ClassVar[str]
    """Name of the kind of index."""
    dimension: int
    """d: numbers of a vector."""

    @abstractmethod
    def __len__(self) -> int:
        """Items that were ever added, retired ones among them."""

    @abstractmethod
    def add(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Takes in new items [M, d] behind those that are there, without a rebuild; returns their numbers [M]."""

    @abstractmethod
    def retire(self, items: NDArray[np.int32]) -> None:
        """Finds `items` no more, without a rebuild."""

    @abstractmethod
    def offer(self, items: NDArray[np.int32]) -> None:
        """Finds `items` again that were retired, without a rebuild; those that were not stay as they are."""

    @abstractmethod
    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `count` items of largest inner product that are not excluded.

        Args:
            queries: [N, d].
            excluded: [N, ceil(I / 8)] little-endian bits of the items to leave out.
            count: items wanted.

        Returns:
            (items [N, count], scores [N, count]), best first, -1 and 0 where there are fewer.

        Raises:
            ConfigurationError: if the queries are of another dimension, or the bits are of another number of items.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings that JSON can hold): all that `from_state` needs."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The index whose `state` this was; the arrays may be read-only."""

    def check_dimension(self, dimension: int) -> None:
        """Refuses vectors of another dimension.

        Raises:
            ConfigurationError: if `dimension` is not the index's.
        """
        if dimension != self.dimension:
            raise ConfigurationError(
                f"vectors of dimension {dimension} do not fit an index of dimension {self.dimension}; build the index anew."
            )

    def check_request(self, queries: NDArray[np.float32], excluded: NDArray[np.uint8]) -> None:
        """Refuses queries or excluded items that do not fit.

        Raises:
            ConfigurationError: if they do not.
        """
        self.check_dimension(queries.shape[1])
        width = (len(self) + 7) // 8
        if excluded.shape[0] != len(queries) or excluded.shape[1] < width:
            raise ConfigurationError(
                f"excluded items of shape {excluded.shape} do not fit {len(queries)} queries to an index of {len(self)} items; "
                f"give bits of shape ({len(queries)}, {width})."
            )
