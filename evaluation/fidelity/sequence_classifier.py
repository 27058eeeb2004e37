"""A classifier that reads sequences item by item: a small 1-D convolutional network over what is known of each item.

Of each step it sees the item's co-occurrence embedding, categories, popularity and birth, its place in the sequence, and by how
much more the item is like each of the three before it than items of the sequence are like each other. Two convolutions see
five steps at a time, and their mean and maximum over the sequence decide. It is stopped after a fixed number of epochs and held
small by weight decay and dropout: there are some hundreds of users to learn from.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.users.threads import single_torch_thread
from evaluation.fidelity.free_running import Sequences
from evaluation.fidelity.sequence_features import ItemFeatures
from evaluation.fidelity.two_sample import FOLDS, TwoSample, folds_by_user, scored

MAX_STEPS = 64
"""Events of a sequence that the classifier reads, the first ones."""
_CHANNELS = 32
_EPOCHS = 12
_BATCH = 64


class _Reader(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, _CHANNELS, 3, padding=1)
        self.second = nn.Conv1d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(2 * _CHANNELS, 1)

    def forward(self, steps: Tensor, there: Tensor) -> Tensor:
        """[S] logits from steps [S, width, T], of which `there` [S, 1, T] are in the sequence."""
        hidden = torch.relu(self.first(steps)) * there
        hidden = torch.relu(self.second(self.drop(hidden))) * there
        pooled = torch.cat([hidden.sum(dim=2) / there.sum(dim=2), hidden.amax(dim=2)], dim=1)
        return self.out(self.drop(pooled))[:, 0]


def sequence_test(real: Sequences, simulated: Sequences, features: ItemFeatures, *, seed: int = 0) -> TwoSample:
    """Told apart by the network: sequences of at least two events, folds by user."""
    steps, there, users, label = [], [], [], []
    for sequences, is_simulated in ((real, False), (simulated, True)):
        chosen = np.flatnonzero(np.diff(sequences.starts) >= 2)
        made, exists = _steps(sequences, chosen, features)
        steps.append(made)
        there.append(exists)
        users.append(chosen)
        label.append(np.full(len(chosen), is_simulated))
    inputs, exists, all_users = np.concatenate(steps), np.concatenate(there), np.concatenate(users)
    labels = np.concatenate(label)
    fold = folds_by_user(all_users, seed)
    score = np.empty(len(labels))
    with single_torch_thread():
        for number in range(FOLDS):
            held = fold == number
            reader = _fitted(inputs[~held], exists[~held], labels[~held], seed + number)
            with torch.no_grad():
                score[held] = reader(torch.from_numpy(inputs[held]), torch.from_numpy(exists[held])).numpy()
    return scored(labels, score, all_users, {}, seed)


def _fitted(steps: NDArray[np.float32], there: NDArray[np.float32], label: NDArray[np.bool_], seed: int) -> _Reader:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reader = _Reader(steps.shape[1]).train()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=0.05)
    target = torch.from_numpy(label.astype(np.float32))
    inputs, exists = torch.from_numpy(steps), torch.from_numpy(there)
    for _ in range(_EPOCHS):
        order = rng.permutation(len(label))
        for begin in range(0, len(order), _BATCH):
            rows = torch.from_numpy(order[begin : begin + _BATCH])
            optimiser.zero_grad()
            logit = reader(inputs[rows], exists[rows])
            nn.functional.binary_cross_entropy_with_logits(logit, target[rows]).backward()
            optimiser.step()
    return reader.eval()


def _steps(
    sequences: Sequences, users: NDArray[np.int64], features: ItemFeatures
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """([S, width, T] what is seen of each step, [S, 1, T] 1 where there is one)."""
    starts = sequences.starts[users]
    lengths = np.minimum(np.diff(sequences.starts)[users], MAX_STEPS)
    place = np.arange(int(lengths.max(initial=1)))
    exists = place < lengths[:, None]
    item = sequences.item[np.where(exists, starts[:, None] + place, starts[:, None])]
    popularity, birth = _standardised(features.popularity), _standardised(features.birth_years)
    seen = [
        features.embedding[item],
        features.categories[item],
        popularity[item][..., None],
        birth[item][..., None],
        np.broadcast_to((place / lengths[:, None])[..., None], (*item.shape, 1)),
    ]
    likeness = (
        np.einsum("std,sud->stu", features.embedding[item], features.embedding[item]),
        np.einsum("std,sud->stu", features.directions[item], features.directions[item]),
        -np.abs(popularity[item][:, :, None] - popularity[item][:, None]),
        -np.abs(birth[item][:, :, None] - birth[item][:, None]),
    )
    seen += [_beyond_chance(matrix, exists, lag)[..., None] for matrix in likeness for lag in (1, 2, 3)]
    steps = np.concatenate(seen, axis=-1) * exists[..., None]
    return steps.transpose(0, 2, 1).astype(np.float32), exists[:, None].astype(np.float32)


def _beyond_chance(likeness: NDArray[np.float64], exists: NDArray[np.bool_], lag: int) -> NDArray[np.float64]:
    """[S, T] likeness of each item to the one `lag` before it, less the mean over all pairs of the sequence, in standard deviations
    of these: near zero on average where the order is random."""
    pairs = exists[:, :, None] & exists[:, None, :] & ~np.eye(exists.shape[1], dtype=bool)
    count = np.maximum(pairs.sum(axis=(1, 2)), 1)[:, None]
    mean = (likeness * pairs).sum(axis=(1, 2))[:, None] / count
    spread = np.sqrt((((likeness - mean[..., None]) ** 2) * pairs).sum(axis=(1, 2))[:, None] / count)
    found = np.zeros(exists.shape)
    found[:, lag:] = (np.diagonal(likeness, offset=lag, axis1=1, axis2=2) - mean) / np.maximum(spread, 1e-6)
    return np.clip(found, -4, 4) * exists


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / max(float(values.std()), 1e-12)
