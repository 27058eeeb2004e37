"""What agents that score candidates share: fitted rankers, a table of the items, a network over flat rows, and one file for all."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.actions.engine import SlateActionWrapper
from agents.actions.ranker_scores import RankerScores
from agents.actions.slate import SlateAction
from agents.actions.slots import SlotsAction
from agents.base import Training
from agents.request_layout import RequestLayout
from agents.rerankers import best_first
from agents.rl.networks import in_blocks
from agents.rl.scorer import ItemTable
from agents.rl.served import TrainedAgent, Weights, check_items
from envs.errors import AgentError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv


@dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """What the options of every agent that scores candidates have."""

    rankers: tuple[str, ...] = ("sasrec",)
    """Rankers fitted to the log whose scores the network sees, by name or as "file.py:Class". The first one's order is the policy
    before training; without any it is that of the recall scores."""
    embedding: int = 32
    """Numbers of an item's embedding, which is factorised from the log."""
    width: int = 32
    """Width of the networks' vectors."""
    heads: int = 4
    """Ways in which the networks pool the history."""


class CandidateAgent(TrainedAgent):
    """An agent whose network scores candidates, and sees what fitted rankers make of them.

    `fit` first fits the rankers that `options.rankers` names to the policy's log, and counts and factorises the log for the items'
    table; the rankers stay as they are while the network is trained. A subclass adds `make_network` and `train`; it serves the
    candidates with the largest outputs unless it overrides `choose`.

    The options of a subclass are `CandidateOptions`, and more.

    Raises:
        ConfigurationError: if the options set what has no say here.
    """

    idle_options: ClassVar[tuple[str, ...]] = ("hidden", "normalise")
    """Options of the algorithm that have no say here: the networks score candidates, whose numbers are standardised already."""
    slot_by_slot: ClassVar[bool] = False
    """Whether requests are answered slot by slot; the layout then holds what earlier slots took."""

    rankers_: RankerScores
    items_: ItemTable
    layout_: RequestLayout

    def __init__(self, slate_size: int = 10, seed: int = 0, options: Any = None) -> None:
        super().__init__(slate_size, seed, options)
        defaults = {field.name: field.default for field in fields(self.options)}
        set_in_vain = [
            name for name in self.idle_options if name in defaults and getattr(self.options, name) != defaults[name]
        ]
        if set_in_vain:
            raise ConfigurationError(
                f"agent '{self.name}' has no use for {' or '.join(set_in_vain)}: its networks score candidates; leave "
                f"{'it' if len(set_in_vain) == 1 else 'them'} out."
            )

    @abstractmethod
    def make_network(self) -> nn.Module:
        """The network before training, with outputs [N, C] for flat rows [N, W]; reads `layout_`, `items_` and `options`."""

    def prepare(self, log: InteractionLog, training: Training) -> None:
        self.rankers_ = RankerScores.for_training(self.options.rankers, log, training)
        self.items_ = ItemTable.from_log(log, self.options.embedding, training.seed)

    def model_config(self) -> dict[str, Any]:
        """What the RLlib module of such an agent is made of."""
        return {"layout": self.layout_, "items": self.items_, "options": self.options, "slots": self.slate_size}

    def with_actions(self, env: SlateVectorEnv) -> SlateActionWrapper:
        if env.slate_size != self.slate_size:
            raise AgentError(
                f"agent '{self.name}' fills slates of {self.slate_size}, the environment shows {env.slate_size}; "
                f"make the agent with slate_size={env.slate_size}."
            )
        return (SlotsAction if self.slot_by_slot else SlateAction)(env, self.rankers_)

    def network_of(self, weights: Weights) -> nn.Module:
        network = self.make_network()
        try:
            network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        except RuntimeError as error:
            raise ValueError("the weights are not those of the network") from error
        return network.eval()

    def choose(self, observation: Observation) -> NDArray[np.int64]:
        """The candidates with the largest outputs, largest first; the earlier of equals."""
        return best_first(self.outputs(observation), observation.candidates.mask, self.slate_size)

    def outputs(self, observation: Observation) -> NDArray[np.float32]:
        """[N, C] outputs of the trained network; a row does not depend on the others.

        Raises:
            AgentError: if the requests are of another shape or catalogue than those of the training.
        """
        if not len(observation):
            return np.zeros(observation.candidates.items.shape, np.float32)
        return in_blocks(self._network, self.rows(observation))

    def rows(self, observation: Observation) -> NDArray[np.float32]:
        """Flat rows [N, W] with the rankers' scores; raises as `outputs` does."""
        places = (*observation.candidates.items.shape, len(self.rankers_.names))
        rows = self.layout_.encode(observation, np.zeros(places, np.float32))
        check_items(self.name, observation, len(self.items_.popularity))
        self.layout_.parts(rows).columns[..., 2:] = self.rankers_(observation)
        return rows

    # ------------------------------------------------------------------ one file for all
    def kept_arrays(self) -> Mapping[str, NDArray[Any]]:
        return {
            **self.rankers_.arrays(),
            **{f"items.{name}": array for name, array in self.items_.arrays().items()},
        }

    def kept_content(self) -> Mapping[str, Any]:
        return {"layout": asdict(self.layout_)}

    def restore(self, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        layout = content["layout"]
        self.layout_ = RequestLayout(**{**layout, "columns": tuple(layout["columns"])})
        self.items_ = ItemTable.from_arrays({name: arrays[f"items.{name}"] for name in ItemTable.__dataclass_fields__})
        self.rankers_ = RankerScores.from_arrays(self.options.rankers, arrays)

    def fits(self) -> bool:
        """Whether the rankers give the layout's columns, for the catalogue of the table."""
        own = len(self.items_.popularity)
        return self.layout_.columns[2:] == self.rankers_.names and all(
            ranker.num_items == own for ranker in self.rankers_.rankers
        )
