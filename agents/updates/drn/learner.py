"""What changes DRN's weights: duels with a rival network after each batch of answers, and replay every so many requests."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import huber_loss

from agents.rerankers import best_first
from agents.rl.networks import in_blocks, one_thread
from agents.rl.plackett_luce import masked_logits
from agents.updates.drn.activeness import Activeness
from agents.updates.drn.interleave import interleaved, rank_chances
from agents.updates.drn.memory import Memory, Remembered
from agents.updates.drn.network import DRNNetwork, copied
from agents.updates.drn.options import DRNOptions
from envs.randomness import Purpose, draw_uniform

HOURS_PER_DAY = 24
COUNTERS = ("duels", "won", "majors", "since_major")


class Learner:
    """The network, its rival, and what both are learnt from; its arrays are all that it goes on from.

    Nothing is drawn from a stream: the rival of a duel and the sample of a major update are drawn by their number, so that who goes
    on from a file draws what would have been drawn.

    Args:
        network: whose weights are changed in place.
        options: see `DRNOptions`.
        slots: K.
        seed: of rivals and samples.
    """

    def __init__(self, network: DRNNetwork, options: DRNOptions, slots: int, seed: int) -> None:
        self.network, self.options, self.seed = network, options, seed
        self.optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
        self.memory = Memory(options.remembered, network.advantage.encoder.layout.width, slots)
        self.activeness = Activeness(options.initial_activeness, options.activeness_gain, options.hazard_per_day)
        self.duels = 0
        """Rivals so far whose duels are over; the number of the present one."""
        self.won = 0
        """Duels that the rival won."""
        self.majors = 0
        self.since_major = 0
        """Requests answered since the last major update."""
        self.loss = float("nan")
        """Mean of the last major update."""
        self._rival, self._target = copy.deepcopy(network), copy.deepcopy(network)
        self._rival_is_new = False

    # ------------------------------------------------------------------ serving
    def serve(
        self, rows: NDArray[np.float32], user: NDArray[np.int64], draws: NDArray[np.floating] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Makes slates for N requests and remembers them.

        Args:
            rows: [N, W] flat rows, at most as many as are remembered.
            user: [N] non-negative numbers by which later requests of the same user are known.
            draws: [N, K, 2] for `interleaved`; None shows what is best, without the rival.

        Returns:
            (slates [N, K], numbers [N] by which `answer` knows the requests).
        """
        parts = self.network.advantage.encoder.layout.parts(rows)
        mask, slots = parts.mask.astype(np.int8), self.memory.items.shape[1]
        if draws is None:
            slates = best_first(in_blocks(self.network, rows), mask, slots)
            credits, duel = np.zeros(slates.shape, np.float32), -1
        else:
            both = (self.network, self.rival())
            chances = [rank_chances(in_blocks(network, rows), mask, self.options.steepness) for network in both]
            slates, credits = interleaved(chances[0], chances[1], slots, draws)
            duel = self.duels
        items = np.where(np.take_along_axis(mask, slates, 1) == 1, np.take_along_axis(parts.items, slates, 1), -1)
        hour, _, place, day = parts.context.astype(np.float64).T
        days = day + hour / HOURS_PER_DAY
        numbers = self.memory.add(
            user,
            self.activeness.asked(user, days, place == 0),
            rows=rows,
            days=days,
            places=slates,
            items=items,
            credits=credits,
            duel=np.full(len(rows), duel),
        )
        return slates, numbers

    # ------------------------------------------------------------------ minor updates
    def rival(self) -> DRNNetwork:
        """The network of weights W + α u W, where u is uniform in (-1, 1) for each weight, drawn anew for each duel.

        V has no say in a ranking, hence none in a duel: its weights stay. A weight of 0 stays too.

        Source: Zheng et al. (2018), DRN, eq. 7.
        """
        if not self._rival_is_new:
            copied(self.network, self._rival)
            with torch.no_grad():
                for place, (_, weights) in enumerate(self._rival.ranking_weights()):
                    draws = draw_uniform(self.seed, Purpose.AGENT, self.duels, place, np.arange(weights.numel()))
                    turns = torch.from_numpy(2 * draws - 1).view_as(weights)
                    weights.add_(self.options.alpha * turns * weights)
            self._rival_is_new = True
        return self._rival

    def decide(self, votes: float) -> None:
        """Ends a duel: W becomes W + η (W~ - W) if the rival's items earned more, by `votes` > 0; else it stays.

        Source: Zheng et al. (2018), DRN, eq. 8, in the form of Yue and Joachims (2009), Interactively optimizing information
        retrieval systems as a dueling bandits problem, algorithm 1. Eq. 8 as printed adds η W~, which would let weights grow.
        """
        if votes > 0:
            with torch.no_grad():
                pairs = zip(self.network.ranking_weights(), self.rival().ranking_weights(), strict=True)
                for (_, own), (_, its) in pairs:
                    own.add_(self.options.eta * (its - own))
            self.won += 1
        self._begin_duel()

    def _begin_duel(self) -> None:
        self.duels += 1
        self._rival_is_new = False

    # ------------------------------------------------------------------ answers
    def answer(self, numbers: NDArray[np.int64], earned: NDArray[np.floating], absent_since: float) -> None:
        """Takes in what each slot of requests `numbers` [M] earned [M, K]: ends the duel that they were part of, then makes the
        major updates that are due.

        Args:
            numbers: of `Memory`, still remembered.
            earned: rewards, 0 where a slot was passed over.
            absent_since: see `Memory.learnable`.
        """
        if not len(numbers):
            return
        self.memory.answer(numbers, earned)
        at = numbers % self.memory.size
        of_duel = self.memory.duel[at] == self.duels
        if of_duel.any():
            self.decide(float((earned[of_duel].astype(np.float64) * self.memory.credits[at[of_duel]]).sum()))
        self.since_major += len(numbers)
        while self.since_major >= self.options.major_every:
            self.since_major -= self.options.major_every
            self._update_by_replay(absent_since)

    def close(self) -> None:
        """Forgets who is who, as other users are served from now on."""
        self.memory.close()
        self.activeness.forget(np.arange(len(self.activeness.days)))

    # ------------------------------------------------------------------ major updates
    def _update_by_replay(self, absent_since: float) -> None:
        """Some gradient steps on remembered requests, towards targets of the network as it was before them."""
        learnable, draws = self.memory.learnable(absent_since), np.random.default_rng([self.seed, self.majors])
        self.majors += 1
        if not len(learnable):
            return
        copied(self.network, self._target)
        losses = []
        with one_thread():
            for _ in range(self.options.gradient_steps):
                drawn = self.memory.take(draws.choice(learnable, self.options.minibatch))
                loss = self.loss_of(drawn)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                losses.append(loss.item())
        self.loss = float(np.mean(losses))
        # the rival of a duel under way is of weights that are no more
        self._begin_duel()

    def loss_of(self, drawn: Remembered) -> Tensor:
        """Mean Huber loss of the values of all that was shown, against their targets."""
        targets = self.targets(drawn)
        request = self.network.read(torch.from_numpy(drawn.rows))
        values = self.network.of(request.at(torch.from_numpy(drawn.places)))
        shown = torch.from_numpy(drawn.shown)
        return (huber_loss(values, targets, reduction="none") * shown).sum() / shown.sum().clamp(min=1)

    def targets(self, drawn: Remembered) -> Tensor:
        """[M, K] r + γ Q'(s', argmax Q(s', ·)) of each slot, where r is what it earned, and β times the user's activeness at the
        next request; Q' is the target network. Nothing follows where the user is gone or nothing may be shown next.

        Source: Zheng et al. (2018), DRN, eq. 2 and 6.
        """
        with torch.no_grad():
            following = self.network.read(torch.from_numpy(drawn.next_rows))
            best = masked_logits(self.network.of(following), following.mask).argmax(dim=1, keepdim=True)
            future = self._target.of(following.at(best)).squeeze(1)
            goes_on = torch.from_numpy(drawn.goes_on) & (following.mask.sum(dim=1) > 0)
            future = torch.where(goes_on, future, 0.0)
            of_request = self.options.beta * torch.from_numpy(drawn.active) + self.options.gamma * future
        return torch.from_numpy(drawn.earned) + of_request[:, None]

    # ------------------------------------------------------------------ files
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that it goes on from but the network's weights."""
        kept: dict[str, NDArray[Any]] = {
            **{f"memory.{name}": array for name, array in self.memory.arrays().items()},
            **{f"activeness.{name}": array for name, array in self.activeness.arrays().items()},
            "counters": np.array([getattr(self, name) for name in COUNTERS]),
            "seed": np.array(self.seed),
        }
        for place, moments in self.optimizer.state_dict()["state"].items():
            kept |= {f"adam.{place}.{name}": value.numpy() for name, value in moments.items()}
        return kept

    def take_back(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from what `arrays` gave.

        Raises:
            KeyError, ValueError: if a part is missing or does not fit the network.
        """
        parts: dict[str, dict[str, NDArray[Any]]] = {"memory": {}, "activeness": {}}
        for name, array in arrays.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = array
        self.memory.take_back(parts["memory"])
        self.activeness.take_back(parts["activeness"])
        self.seed = int(arrays["seed"])
        for name, number in zip(COUNTERS, arrays["counters"], strict=True):
            setattr(self, name, int(number))
        self._take_back_moments(parts.get("adam", {}))
        self._rival_is_new = False

    def _take_back_moments(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        shapes = [tuple(weights.shape) for weights in self.network.parameters()]
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            place, _, moment = name.partition(".")
            if moment != "step" and array.shape != shapes[int(place)]:
                raise ValueError(f"the optimiser's moments are of shape {array.shape}")
            state.setdefault(int(place), {})[moment] = torch.from_numpy(np.array(array))
        if state and len(state) != len(shapes):
            raise ValueError("the optimiser's moments are not those of the network")
        if state:
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
