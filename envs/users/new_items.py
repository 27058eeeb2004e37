"""New items that resemble fitted ones: a smoothed bootstrap inside categories."""

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.5
"""h: standard deviation of the noise, in standard deviations of the items of a category (assumed)."""


def resembling(
    values: NDArray[np.float32],
    categories: NDArray[np.float32],
    parents: NDArray[np.int64],
    noise: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Draws the hidden values of new items from around those of their parents.

    value = c + (parent - c + h sd noise) / sqrt(1 + h^2), where c and sd are mean and spread of the items of the parent's
    categories: parents drawn at random then give new items of the same mean and spread as the old ones.

    Args:
        values: [I, d] of the fitted items.
        categories: [I, G] memberships; an item of none counts with all items.
        parents: [B] an item for each new one.
        noise: [B, d] standard normal.

    Returns:
        [B, d].

    Source: Silverman and Young (1987), The bootstrap: to smooth or not to smooth?, eq. 3.2 (the shrunk smoothed bootstrap).
    """
    weight = np.maximum(categories.sum(axis=0), 1e-12)[:, None]
    means = categories.T @ values / weight
    squares = categories.T @ values**2 / weight
    share = categories[parents]
    total = share.sum(axis=1, keepdims=True)
    share /= np.where(total > 0, total, 1)
    centre = np.where(total > 0, share @ means, values.mean(axis=0))
    square = np.where(total > 0, share @ squares, (values**2).mean(axis=0))
    spread = np.sqrt(np.maximum(square - centre**2, 0))
    drawn = centre + (values[parents] - centre + SMOOTHING * spread * noise) / np.sqrt(1 + SMOOTHING**2)
    return drawn.astype(np.float32)
