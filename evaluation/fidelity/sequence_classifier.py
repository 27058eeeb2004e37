"""A classifier that reads sequences item by item: a small 1-D convolutional network over what is known of each item.

Of each step it sees the item's co-occurrence embedding, categories, popularity and birth, and how far the item is from the one
before it; two convolutions see five steps at a time, and their mean and maximum over the sequence decide. It is stopped after a
fixed number of epochs and held small by weight decay and dropout: there are some hundreds of users to learn from.
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
    previous = np.concatenate([item[:, :1], item[:, :-1]], axis=1)
    popularity, birth = _standardised(features.popularity), _standardised(features.birth_years)
    seen = [
        features.embedding[item],
        features.categories[item],
        popularity[item][..., None],
        birth[item][..., None],
        (features.embedding[item] * features.embedding[previous]).sum(axis=-1, keepdims=True),
        (features.directions[item] * features.directions[previous]).sum(axis=-1, keepdims=True),
        np.abs(popularity[item] - popularity[previous])[..., None],
        np.abs(birth[item] - birth[previous])[..., None],
    ]
    steps = np.concatenate(seen, axis=-1) * exists[..., None]
    return steps.transpose(0, 2, 1).astype(np.float32), exists[:, None].astype(np.float32)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / max(float(values.std()), 1e-12)
