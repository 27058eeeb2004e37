"""Channel: a two-tower network, which knows users by their history and attributes and items by identity, category and age."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from envs.candidate_source import RecallRequest
from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import over_rows
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.users.threads import single_torch_thread
from recall import kernels
from recall.channels.base import check_same_shape, with_consumption
from recall.channels.vectors import VectorChannel
from recall.index import IndexConfig

LAYERS = ("user_hidden", "user_output", "item_hidden", "item_output")
AGE_SCALE = 10.0
"""log(1 + days) of the oldest items is about so large."""
FRESH_DAYS = 30.0
"""Age at which the second feature of age has fallen to 1/e."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Size and training of the network."""

    embedding: int = 32
    """Numbers of an item's embedding, one table for items and one for histories."""
    hidden: int = 128
    """Units of the hidden layer of each tower."""
    dimension: int = 32
    """d: numbers of the vectors that the towers end in."""
    history_size: int = 30
    """Items of the history that the user tower reads."""
    history_decay: float = 0.9
    """Share of its weight that an item of the history keeps for each item consumed since, in (0, 1]."""
    temperature: float = 0.07
    """Cosines are divided by it before the softmax."""
    epochs: int = 15
    """Passes over the consumed rows of a full fit."""
    update_epochs: int = 2
    """Passes over the new rows of an update and as many old ones."""
    batch: int = 1_024
    """Rows of a step; each row's negatives are the other rows' items."""
    learning_rate: float = 3e-3
    """Step of Adam."""
    weight_decay: float = 1e-5
    """Penalty on the squared weights."""
    unknown_share: float = 0.1
    """Share of the items of a step that are shown without their identity, so that category and age must do: what items that the
    log does not know are served by."""
    debias: bool = True
    """Whether log Q of the sampled softmax is corrected; without, popular items are pushed away as negatives."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """How items are searched."""

    def __post_init__(self) -> None:
        for name in ("embedding", "hidden", "dimension", "history_size", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.temperature > 0:
            raise ConfigurationError(f"temperature is {self.temperature}; it must be positive.")
        if not 0 < self.history_decay <= 1:
            raise ConfigurationError(f"history_decay is {self.history_decay}; it must lie in (0, 1].")
        if not 0 <= self.unknown_share < 1:
            raise ConfigurationError(f"unknown_share is {self.unknown_share}; it must lie in [0, 1).")


class TwoTower(VectorChannel):
    """Items of the largest cosine between what the item tower makes of an item and the user tower of a user.

    The user tower reads the history (decayed mean of embeddings, the last item's, decayed mean of categories) and the user's
    attributes; the item tower reads identity, categories and age. Trained by a softmax over the items of a batch, with logits less
    log Q(item), Q the item's share of the rows, because an item is a negative as often as it is consumed. Served by kernels on
    the learnt arrays, so a request's bits depend on no other.

    Source: Yi et al. (2019), Sampling-bias-corrected neural modeling for large corpus item recommendations, eq. 3 to 5.
    """

    name: ClassVar[str] = "two_tower"
    config_type: ClassVar[type] = TwoTowerConfig
    config: TwoTowerConfig
    item_table_: NDArray[np.float32]
    """[I + 1, e] embeddings of the items' identities; the last row stands for items without rows."""
    history_table_: NDArray[np.float32]
    """[I + 1, e] embeddings of items in histories."""
    known_: NDArray[np.bool_]
    """[I] items with rows."""
    rows_: NDArray[np.int64]
    """[R, 3] user, item and time of all consumed rows so far, in order of user and time."""
    user_features_: NDArray[np.float32]
    """[U, Fu] attributes."""
    categories_: NDArray[np.float32]
    """[I, G] memberships."""
    birth_: NDArray[np.int64]
    """[I] births, seconds since 1970."""
    latest_: int
    """Time of the last row so far, at which the items' ages are taken."""

    def fit(self, log: InteractionLog) -> Self:
        """Learns both towers from the consumed rows of `log`."""
        events = with_consumption(self.name, log)
        self.user_features_, self.categories_ = log.users.features, log.catalogue.categories
        self.birth_ = log.catalogue.birth
        self.rows_ = np.column_stack([events.user, events.item, events.timestamp]).astype(np.int64)
        self._train(np.arange(len(self.rows_)), self.config.epochs, warm=False)
        return self

    def update(self, events: InteractionLog) -> None:
        """Goes on with passes over the new rows and as many old ones (a batch at least), so that there are other items to tell
        theirs from, and what was learnt stays."""
        check_same_shape(self.name, events, len(self.user_features_), len(self.birth_))
        events = events.consumed()
        if len(events):
            new = np.column_stack([events.user, events.item, events.timestamp]).astype(np.int64)
            together = np.concatenate([self.rows_, new])
            order = np.lexsort((together[:, 2], together[:, 0]))
            self.rows_ = together[order]
            is_new = order >= len(order) - len(new)
            old = np.random.default_rng(self.seed).permutation(np.flatnonzero(~is_new))
            chosen = np.concatenate([np.flatnonzero(is_new), old[: max(len(new), self.config.batch)]])
            self._train(chosen, self.config.update_epochs, warm=True)

    def user_vectors(self, request: RecallRequest) -> NDArray[np.float32]:
        """[N, d] what the user tower makes of the requests' histories and users; a stranger (-1) has the mean attributes."""
        history = request.history[:, : self.config.history_size]
        width, categories = self.config.embedding, self.categories_.shape[1]
        inputs = np.zeros((len(history), self._user_width()), np.float32)
        total = np.zeros(len(history), np.float32)
        for place in range(history.shape[1]):  # place by place, so that the bits do not depend on the batch
            weight = (history[:, place] >= 0) * np.float32(self.config.history_decay**place)
            inputs[:, :width] += weight[:, None] * self.history_table_[history[:, place]]
            inputs[:, 2 * width : 2 * width + categories] += weight[:, None] * self.categories_[history[:, place]]
            total += weight
        share = (1 / np.maximum(total, np.float32(1e-12)))[:, None]
        inputs[:, :width] *= share
        inputs[:, 2 * width : 2 * width + categories] *= share
        some = history[:, 0] >= 0 if history.shape[1] else np.zeros(len(history), bool)
        if history.shape[1]:
            inputs[:, width : 2 * width] = some[:, None] * self.history_table_[history[:, 0]]
        inputs[:, 2 * width + categories : -1] = self._features(request.user)
        inputs[:, -1] = some
        return self._tower("user", inputs)

    def restored(self) -> None:
        """Makes the items' vectors and indexes them."""
        number = np.arange(len(self.birth_))
        inputs = np.concatenate(
            [
                self.item_table_[np.where(self.known_, number, len(number))],
                self.categories_,
                _age_features((self.latest_ - self.birth_) / SECONDS_PER_DAY),
                self.known_[:, None],
            ],
            axis=1,
        ).astype(np.float32)
        self.item_vectors_ = self._tower("item", inputs)
        super().restored()

    def _features(self, user: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N, Fu] attributes of users; of strangers (-1) the mean ones."""
        own = self.user_features_[np.maximum(user, 0)]
        if (user < 0).any():
            own[user < 0] = self.user_features_.mean(axis=0)
        return own

    def _tower(self, side: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, d] unit vectors: one hidden layer of rectified units, and a linear one."""
        for layer in ("hidden", "output"):
            weights, bias = (vars(self)[f"{side}_{layer}_{part}_"] for part in ("weights", "bias"))
            inputs = _dense(inputs, weights, bias, rectify=layer == "hidden")
        length = np.sqrt((inputs * inputs).sum(axis=1, keepdims=True))
        return inputs / np.maximum(length, np.float32(1e-12))

    def _user_width(self) -> int:
        return 2 * self.config.embedding + self.categories_.shape[1] + self.user_features_.shape[1] + 1

    def _train(self, chosen: NDArray[np.int64], epochs: int, warm: bool) -> None:
        """Trains on the rows `chosen` of all rows so far, and keeps what was learnt as arrays."""
        before = self.known_ if warm else np.zeros(len(self.birth_), bool)
        self.known_ = np.bincount(self.rows_[:, 1], minlength=len(self.birth_)) > 0
        self.latest_ = int(self.rows_[:, 2].max())
        if warm:  # an item begins where it stood while it was unknown
            self.item_table_[:-1][self.known_ & ~before] = self.item_table_[-1]
        with _own_torch(self.seed):
            network = _Towers(self.config, self._user_width(), *self.categories_.shape)
            if warm:
                network.load_state_dict({name: torch.from_numpy(vars(self)[key]) for name, key in _keys().items()})
            _fit(network, self, chosen, epochs)
            for name, key in _keys().items():
                setattr(self, key, network.state_dict()[name].numpy().copy())
        # an item of a history that the log does not know speaks by its categories alone
        self.history_table_[np.append(~self.known_, True)] = 0
        self.restored()


class _Towers(nn.Module):
    """The network as it is trained."""

    def __init__(self, config: TwoTowerConfig, user_width: int, num_items: int, num_categories: int) -> None:
        super().__init__()
        self.item_table = nn.Embedding(num_items + 1, config.embedding)
        self.history_table = nn.Embedding(num_items + 1, config.embedding, padding_idx=num_items)
        for table in (self.item_table, self.history_table):
            nn.init.normal_(table.weight, std=0.1)
        with torch.no_grad():
            self.history_table.weight[num_items] = 0
        self.user_hidden = nn.Linear(user_width, config.hidden)
        self.user_output = nn.Linear(config.hidden, config.dimension)
        self.item_hidden = nn.Linear(config.embedding + num_categories + 3, config.hidden)
        self.item_output = nn.Linear(config.hidden, config.dimension)

    def users(self, history: torch.Tensor, weight: torch.Tensor, profile: torch.Tensor, features: torch.Tensor) -> Any:
        """[B, d] of users with histories [B, H] (the number of items where there are fewer) of `weight` [B, H], summing to 1."""
        embedded = self.history_table(history)
        mean = (embedded * weight[:, :, None]).sum(dim=1)
        some = (weight[:, :1] > 0).to(mean.dtype)
        inputs = torch.cat([mean, embedded[:, 0], profile, features, some], dim=1)
        return nn.functional.normalize(self.user_output(torch.relu(self.user_hidden(inputs))), dim=1)

    def items(self, item: torch.Tensor, categories: torch.Tensor, age: torch.Tensor, known: torch.Tensor) -> Any:
        """[B, d] of items, whose identity is the number of items where it is not told."""
        inputs = torch.cat([self.item_table(item), categories, age, known[:, None]], dim=1)
        return nn.functional.normalize(self.item_output(torch.relu(self.item_hidden(inputs))), dim=1)


def _keys() -> dict[str, str]:
    """Parameter of the network -> attribute of the channel."""
    tables = {f"{name}.weight": f"{name}_" for name in ("item_table", "history_table")}
    weights = {f"{layer}.weight": f"{layer}_weights_" for layer in LAYERS}
    return {**tables, **weights, **{f"{layer}.bias": f"{layer}_bias_" for layer in LAYERS}}


def _fit(network: _Towers, channel: TwoTower, chosen: NDArray[np.int64], epochs: int) -> None:
    """Minimises the sampled softmax over the items of each batch of the rows `chosen`."""
    config, rows, num_items = channel.config, channel.rows_, len(channel.birth_)
    starts = np.searchsorted(rows[:, 0], rows[:, 0])
    counts = np.bincount(rows[chosen, 1], minlength=num_items)
    log_q = torch.from_numpy(np.log(np.maximum(counts, 1) / len(chosen)).astype(np.float32))
    decay = np.float32(config.history_decay) ** np.arange(config.history_size, dtype=np.float32)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    random = np.random.default_rng(channel.seed)
    for _ in range(epochs):
        order = random.permutation(chosen)
        for begin in range(0, len(order), config.batch):
            batch = order[begin : begin + config.batch]
            if len(batch) < 2:
                continue
            place = batch[:, None] - 1 - np.arange(config.history_size)
            inside = place >= starts[batch, None]
            history = np.where(inside, rows[np.maximum(place, 0), 1], num_items)
            weight = inside * decay
            weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
            profile = np.einsum(
                "bh,bhg->bg", weight, channel.categories_[np.minimum(history, num_items - 1)] * inside[:, :, None]
            )
            users = network.users(
                torch.from_numpy(history),
                torch.from_numpy(weight.astype(np.float32)),
                torch.from_numpy(profile.astype(np.float32)),
                torch.from_numpy(channel.user_features_[rows[batch, 0]]),
            )
            item = rows[batch, 1]
            told = random.random(len(batch)) >= config.unknown_share
            items = network.items(
                torch.from_numpy(np.where(told, item, num_items)),
                torch.from_numpy(channel.categories_[item]),
                torch.from_numpy(_age_features((rows[batch, 2] - channel.birth_[item]) / SECONDS_PER_DAY)),
                torch.from_numpy(told.astype(np.float32)),
            )
            positive = torch.from_numpy(item)
            loss = sampled_softmax(users @ items.T / config.temperature, positive, log_q if config.debias else None)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def sampled_softmax(logits: torch.Tensor, item: torch.Tensor, log_q: torch.Tensor | None) -> torch.Tensor:
    """Mean negative log-likelihood of each row's own item among those of the batch.

    Args:
        logits: [B, B] of row b's user and row c's item.
        item: [B] the items; where row c has the item of row b, it is no negative of b.
        log_q: [I] logarithm of the probability that a row of a batch has the item, which is subtracted; None for no correction.

    Source: Yi et al. (2019), eq. 4 and 5.
    """
    if log_q is not None:
        logits = logits - log_q[item][None, :]
    same = (item[:, None] == item[None, :]) & ~torch.eye(len(item), dtype=torch.bool)
    return nn.functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(item)))


def _age_features(days: NDArray[np.float64]) -> NDArray[np.float32]:
    """[N, 2] features of an age in days; what is not born yet counts as new."""
    days = np.maximum(days, 0)
    return np.column_stack([np.log1p(days) / AGE_SCALE, np.exp(-days / FRESH_DAYS)]).astype(np.float32)


def _dense(
    inputs: NDArray[np.float32], weights: NDArray[np.float32], bias: NDArray[np.float32], rectify: bool
) -> NDArray[np.float32]:
    """[N, out] of inputs [N, in], weights [out, in] and bias [out]; a row's bits depend on no other row."""
    padding = -inputs.shape[1] % 4
    padded = np.ascontiguousarray(np.pad(inputs, ((0, 0), (0, padding))))
    matrix = np.ascontiguousarray(np.pad(weights, ((0, 0), (0, padding))).T)
    outputs = np.empty((len(inputs), len(bias)), np.float32)
    over_rows(kernels.dense, len(inputs), padded, matrix, bias, int(rectify), outputs)
    return outputs


@contextmanager
def _own_torch(seed: int) -> Iterator[None]:
    """Draws from `seed` and one thread inside a `with` block: what is learnt depends on neither; both are put back behind it."""
    with torch.random.fork_rng(devices=[]), single_torch_thread():
        torch.manual_seed(seed)
        yield
