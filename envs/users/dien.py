"""The DIEN-like user model: the parametric model with facets of interest that a GRU and attentional GRUs carry.

Utility of item i for a user in context c (docs/user-model-dien.md):

    x = [the parametric model's utility] + sum_k w_ik (u_k O).v

where the facets u_k, one for each learnt prototype q_k, move with every consumed item: a GRU h reads the item, and an AUGRU reads
h with its update gate scaled by the attention of facet k. w_i shares item i among the facets.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from envs.artefacts import load_arrays, save_arrays
from envs.compiled import VECTOR_LANES
from envs.users.interest import InterestModel, InterestState
from envs.users.protocol import ChoiceParams, Trait, VisitParams
from envs.users.row_product import row_product

SHARPNESS = 4.0
"""Factor on the cosine of item and prototype before the softmax that shares an item among the facets (assumed)."""


def augru_step(
    state: NDArray[np.float32],
    inputs: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    attention: NDArray[np.float32],
) -> NDArray[np.float32]:
    """One step of a GRU whose update gate is scaled by `attention`.

    Args:
        state: [M, K, h].
        inputs: [M, 3 h] the inputs' part of reset gate, update gate and candidate.
        weight: [h, 3 h] recurrent weights.
        bias: [3 h].
        attention: [M, K] in [0, 1]; ones make it a plain GRU.

    Returns:
        [M, K, h] the next state.

    Source: Zhou et al. (2019), Deep Interest Evolution Network, eq. 12 to 14.
    """
    size = state.shape[-1]
    recurrent = row_product(state, weight) + bias
    inputs = inputs[:, None]
    reset, update = np.split(_sigmoid(inputs[..., : 2 * size] + recurrent[..., : 2 * size]), 2, axis=-1)
    candidate = np.tanh(inputs[..., 2 * size :] + reset * recurrent[..., 2 * size :])
    return (state + attention[..., None] * update * (candidate - state)).astype(np.float32, copy=False)


@dataclass(frozen=True, kw_only=True)
class DienNetwork:
    """Weights of the facets. h is the width of the extractor and of each facet, K the number of facets."""

    extractor_input: NDArray[np.float32]
    """[d + G + 2, 3 h] of an item's embedding and categories, log(1 + days away before it), and 1 where it began a visit."""
    extractor_input_bias: NDArray[np.float32]
    """[3 h]."""
    extractor_recurrent: NDArray[np.float32]
    """[h, 3 h]."""
    extractor_recurrent_bias: NDArray[np.float32]
    """[3 h]."""
    extractor_fading: NDArray[np.float32]
    """[h] rate at which each unit fades between visits, per day."""
    prototypes: NDArray[np.float32]
    """q [K, d] of norm 1."""
    attention: NDArray[np.float32]
    """[h, d] W of the attention sigmoid(h W q_k + c_k)."""
    attention_bias: NDArray[np.float32]
    """c [K]."""
    evolution_input: NDArray[np.float32]
    """[h, 3 h] of the extractor's state."""
    evolution_input_bias: NDArray[np.float32]
    """[3 h]."""
    evolution_recurrent: NDArray[np.float32]
    """[h, 3 h], shared by the facets."""
    evolution_recurrent_bias: NDArray[np.float32]
    """[3 h]."""
    evolution_fading: NDArray[np.float32]
    """[h] as `extractor_fading`, of the facets."""
    output: NDArray[np.float32]
    """O [h, d] from a facet to the space of the embeddings; in logits."""

    @property
    def size(self) -> int:
        """h."""
        return len(self.extractor_recurrent)

    @property
    def num_facets(self) -> int:
        """K."""
        return len(self.prototypes)

    def facet_shares(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """w [I, K] of items with `embedding` [I, d]: a softmax of their cosines with the prototypes; rows sum to 1."""
        norm = np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        return softmax(SHARPNESS * (embedding / norm) @ self.prototypes.T, axis=1).astype(np.float32)


@dataclass
class DienState(InterestState):
    """Interests of N users: those of the parametric model, and the network's."""

    extracted: NDArray[np.float32]
    """h [N, h] state of the extractor."""
    evolved: NDArray[np.float32]
    """u [N, K, h] facets."""
    days_away: NDArray[np.float32]
    """[N] days between visits since the last consumed item, an input of the extractor's next step."""

    def take(self, rows: NDArray[np.int64]) -> "DienState":
        return DienState(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: NDArray[np.int64], values: InterestState) -> None:
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(values, f.name)


@dataclass(frozen=True, kw_only=True)
class DienModel:
    """A fitted DIEN-like user model; fulfils `UserModel` and `ExtendableUserModel`."""

    base: InterestModel
    """All but the facets: long-term interest, exponential average, satiation, context, age, bias, visits, ratings."""
    network: DienNetwork
    table: list[dict[str, Any]] = field(default_factory=list)
    """One row for each parameter: name, symbol, value, low, high, source ('fitted' or 'assumed'), note."""
    fit_report: dict[str, Any] = field(default_factory=dict)
    """Log-likelihoods and the like of the fit that made the model."""

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D]: as the parametric model's, then the embedding times its share in each facet, padded like the former."""
        embedding = self.base.item_embedding
        shared = self.network.facet_shares(embedding)[:, :, None] * embedding[:, None]
        return _joined(self.base.item_vectors, shared)

    @property
    def item_bias(self) -> NDArray[np.float32]:
        return self.base.item_bias

    @property
    def visits(self) -> VisitParams:
        return self.base.visits

    @property
    def choice(self) -> ChoiceParams:
        return self.base.choice

    @property
    def age_values(self) -> NDArray[np.float32]:
        return self.base.age_values

    @property
    def user_parameters(self) -> NDArray[np.float32]:
        """[U, d + len(Trait)]: long-term interest before the first event, then traits."""
        return self.base.user_parameters

    @property
    def walk_width(self) -> int:
        return self.base.walk_width

    def start(self, parameters: NDArray[np.float32]) -> DienState:
        count, network = len(parameters), self.network
        return DienState(
            **vars(self.base.start(parameters)),
            extracted=np.zeros((count, network.size), np.float32),
            evolved=np.zeros((count, network.num_facets, network.size), np.float32),
            days_away=np.zeros(count, np.float32),
        )

    def preference(
        self,
        state: DienState,
        hour: NDArray[np.float32],
        weekday: NDArray[np.int64],
        place_in_visit: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        facets = row_product(state.evolved, self.network.output)
        facets *= 1 + state.traits[:, Trait.FOCUS, None, None]
        parametric = self.base.preference(state, hour, weekday, place_in_visit)
        return _joined(parametric, facets)

    def consume(self, state: DienState, rows: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        self.base.consume(state, rows, items)
        network, away = self.network, state.days_away[rows]
        inputs = self._item_inputs[items] + np.log1p(away)[:, None] * network.extractor_input[-2]
        inputs += (away > 0)[:, None] * network.extractor_input[-1]
        extracted = augru_step(
            state.extracted[rows, None],
            inputs,
            network.extractor_recurrent,
            network.extractor_recurrent_bias,
            np.ones((len(rows), 1), np.float32),
        )[:, 0]
        state.extracted[rows] = extracted
        state.evolved[rows] = augru_step(
            state.evolved[rows],
            row_product(extracted, network.evolution_input) + network.evolution_input_bias,
            network.evolution_recurrent,
            network.evolution_recurrent_bias,
            _sigmoid(row_product(extracted, self._attention) + network.attention_bias),
        )
        state.days_away[rows] = 0

    def pause(
        self,
        state: DienState,
        rows: NDArray[np.int64],
        days: NDArray[np.float32],
        walk: NDArray[np.float32] | None,
    ) -> None:
        self.base.pause(state, rows, days, walk)
        days = days.astype(np.float32)
        state.extracted[rows] *= np.exp(-days[:, None] * self.network.extractor_fading)
        state.evolved[rows] *= np.exp(-days[:, None] * self.network.evolution_fading)[:, None]
        state.days_away[rows] += days

    def expected_rating(
        self, state: DienState, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self.base.expected_rating(state, rows, items, utility)

    def rate(
        self,
        state: DienState,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        return self.base.rate(state, rows, items, utility, noise)

    @property
    def item_noise_width(self) -> int:
        return self.base.item_noise_width

    def with_items(self, parents: NDArray[np.int64], noise: NDArray[np.float32]) -> "DienModel":
        """New items are the parametric model's; their embeddings tell their shares in the facets."""
        return replace(self, base=self.base.with_items(parents, noise))

    @cached_property
    def _item_inputs(self) -> NDArray[np.float32]:
        """[I, 3 h] what an item alone puts into the extractor's gates."""
        features = np.concatenate([self.base.item_embedding, self.base.categories], axis=1)
        return features @ self.network.extractor_input[:-2] + self.network.extractor_input_bias

    @cached_property
    def _attention(self) -> NDArray[np.float32]:
        """[h, K] W q_k."""
        return self.network.attention @ self.network.prototypes.T

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        base_arrays, base_configuration = self.base.stored()
        network = {f.name: getattr(self.network, f.name) for f in fields(self.network)}
        save_arrays(
            path,
            "DienModel",
            {f"base_{name}": array for name, array in base_arrays.items()}
            | {f"network_{name}": array for name, array in network.items()},
            {"base": base_configuration, "table": self.table, "fit_report": self.fit_report},
        )

    @classmethod
    def load(cls, path: Path) -> "DienModel":
        """Reads what `save` wrote.

        Raises:
            ArtefactError: if the file is damaged or holds something else.
        """
        arrays, configuration = load_arrays(path, "DienModel")

        def of(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        return cls(
            base=InterestModel.restored(of("base_"), configuration["base"]),
            network=DienNetwork(**of("network_")),
            table=configuration["table"],
            fit_report=configuration["fit_report"],
        )


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)) by way of tanh, which numpy computes with vector instructions."""
    return np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5)


def _joined(parametric: NDArray[np.float32], facets: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, D] the columns of both, and zeros up to a multiple of the vector lanes."""
    facets = facets.reshape(len(parametric), -1)
    zeros = np.zeros((len(facets), -facets.shape[1] % VECTOR_LANES))
    return np.concatenate([parametric, facets, zeros], axis=1, dtype=np.float32)
