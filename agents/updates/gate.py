"""The gate of continuous delivery: a challenger goes live only where it is shown not to be worse than what serves.

Judged are the newest events that neither has learnt from: slates that were shown, with what was clicked. Both models rank the same
slates, so differences are paired, and cases of one user count as one cluster. What may be promoted must pass, for each measure, a
non-inferiority test with a relative margin m at level alpha: the one-sided lower confidence limit of

    mean(challenger) - (1 - m) mean(champion)

must lie above zero (Wellek 2010, Testing statistical hypotheses of equivalence and noninferiority, 2nd edition; with the margin as
a share of the reference as in Hauschke, Kieser, Diletti and Hothorn 1999). So a challenger that is worse by exactly the margin
passes in a share alpha of decisions, and one that is as good passes with a chance that the decision states (`Finding.power`).

Two measures: `ndcg`, where in the shown slates the clicked item would have stood, and `recall`, whether the clicked item would have
been among the candidates, of all items that were on offer at its time. What was shown was chosen by the champion, so clicked items
are its candidates nearly always; the margin of recall is therefore wide, and keeps out broken embeddings only. A share of traffic
served by the challenger has no such bias (`SharedTraffic`) and is judged too where there is one.

Chance finds a clicked item among c candidates of n items on offer in a share c / n of cases, so recall counts only beyond that:
else with few items a margin of half would let embeddings pass that know nothing. And so that events which tell nothing apart pass
nothing, a challenger must do better than chance in both measures whatever the champion does (assay sensitivity; ICH E10). Cases
in which every item on offer would be a candidate tell nothing of recall; where fewer than `min_users` have others, it is not
judged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import nct
from scipy.stats import t as student

from agents.rankers.log_history import LogHistory
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import joined
from agents.updates.intervals import Measured
from agents.updates.metrics import mean_by_user, ndcg_at
from agents.updates.models import ServedModels
from envs.catalogue import Catalogue
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_uniform

HISTORY_SIZE = 50
"""Items of a history that models are shown."""
_CHUNK = 512
"""Cases whose scores of the whole catalogue are held at a time."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What a challenger must show."""

    ndcg_margin: float = 0.02
    """Share of the champion's NDCG in shown slates that may be lost."""
    recall_margin: float = 0.5
    """Share of the champion's recall of clicked items beyond chance that may be lost; wide, see the module."""
    traffic_margin: float = 0.05
    """Share of the champion's clicks per request that may be lost, where traffic was shared."""
    alpha: float = 0.05
    """Chance with which a challenger that is worse by exactly a margin passes its test."""
    min_events: int = 200
    """Clicks in slates that are judged, at least."""
    min_users: int = 20
    """Users that they come from, at least; of shared traffic those of each side."""
    most_events: int = 5_000
    """Newest clicks that are judged, at most."""
    candidates: int = 100
    """Candidates of a request."""

    def __post_init__(self) -> None:
        for name in ("ndcg_margin", "recall_margin", "traffic_margin", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        for name, low in (("min_events", 1), ("min_users", 2), ("candidates", 1), ("most_events", self.min_events)):
            if getattr(self, name) < low:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {low}.")


@dataclass(frozen=True)
class Finding:
    """What one measure says."""

    measure: str
    champion: float
    challenger: float
    margin: float
    """Share of the champion's that may be lost; of recall, of what is beyond chance."""
    low: float
    """One-sided lower limit of challenger - (1 - margin) champion; NaN where nothing can be said."""
    power: float
    """Chance that a challenger just as good as the champion passes with so many events."""

    @property
    def is_non_inferior(self) -> bool:
        """Whether the challenger is shown not to be worse by the margin."""
        return bool(self.low > 0)


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and why."""

    promote: bool
    reason: str
    findings: tuple[Finding, ...] = ()
    events: int = 0
    """Clicks that were judged."""
    users: int = 0

    def figures(self) -> dict[str, float]:
        """Numbers by name, for the registry: "gate_ndcg", "gate_ndcg_champion", "gate_ndcg_low", ..., "gate_events"."""
        told: dict[str, float] = {}
        for each in self.findings:
            name = f"gate_{each.measure}"
            told |= {name: each.challenger, f"{name}_champion": each.champion, f"{name}_low": each.low}
        return told | {"gate_events": float(self.events)}


@dataclass(frozen=True)
class SharedTraffic:
    """What came of traffic of which a share was served by the challenger; users were told apart by `challenged`."""

    champion_clicks: NDArray[np.float64]
    """[U] clicks of each user whom the champion served."""
    champion_requests: NDArray[np.float64]
    """[U] their requests."""
    challenger_clicks: NDArray[np.float64]
    """[V] clicks of each user whom the challenger served."""
    challenger_requests: NDArray[np.float64]
    """[V] their requests."""


def challenged(users: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """[N] which of `users` [N] the challenger serves: a share of all, drawn by `seed`, the same at every request."""
    return draw_uniform(seed, Purpose.AGENT, np.asarray(users, np.int64), np.int64(0)) < share


class Gate:
    """Decides whether a challenger goes live."""

    def __init__(self, config: GateConfig | None = None) -> None:
        self.config = config or GateConfig()

    def enough(self, champion: ServedModels, challenger: ServedModels, events: InteractionLog) -> bool:
        """Whether `judge` would find as many clicks and users as it needs among `events`; else a challenger had better wait. It is
        a count and scores nothing; of slates in which nothing was passed over it counts clicks that are not judged."""
        after = max(champion.window.last, challenger.window.last)
        newer = events.clicked & (events.request >= 0) & (events.timestamp > after)
        users = len(np.unique(events.user[newer]))
        return int(newer.sum()) >= self.config.min_events and users >= self.config.min_users

    def judge(
        self,
        champion: ServedModels,
        challenger: ServedModels,
        past: InteractionLog,
        events: InteractionLog,
        traffic: SharedTraffic | None = None,
    ) -> Decision:
        """Compares two models on the newest events that neither has learnt from.

        Args:
            champion: what serves.
            challenger: what may take its place.
            past: rows before `events`, from which histories are made.
            events: rows of slates, of the same users and catalogue. Those that happened by the end of what either model has learnt
                from, as its data windows tell, are left out.
            traffic: what came of a share of traffic that the challenger served, if there was one.

        Returns:
            Not to promote where there are too few events, a score is not a finite number, a measure may be worse by more than its
            margin, or the challenger is not shown to rank and recall better than chance.
        """
        config = self.config
        after = max(champion.window.last, challenger.window.last)
        newer = events.timestamp > after
        # what one of them has learnt from is not judged, but belongs to histories
        past, _ = joined(past, events.where(~newer).consumed())
        cases = HeldOut.of(past, events.where(newer), config.most_events)
        count, users = len(cases), len(np.unique(cases.user))

        def rejected(reason: str, *findings: Finding) -> Decision:
            return Decision(False, reason, findings, count, users)

        if count < config.min_events or users < config.min_users:
            return rejected(
                f"{count} clicks in slates of {users} users are newer than what both have learnt from; {config.min_events} of "
                f"{config.min_users} users are needed."
            )
        theirs, ours = (cases.measured(models, config.candidates) for models in (champion, challenger))
        if not all(np.isfinite(values).all() for values in ours):
            return rejected("the challenger gives scores that are not finite numbers.")
        # where all that is on offer would be a candidate, recall is no matter of the models
        chance = cases.found_by_chance(config.candidates)
        telling = chance < 1
        # a champion that gives no finite scores is worth nothing
        before, after_it = (mean_by_user(np.nan_to_num(values[0]), cases.user) for values in (theirs, ours))
        findings = [self._finding("ndcg", config.ndcg_margin, before, after_it)]
        beyond_chance = {"ranks": mean_by_user(ours[0] - cases.by_chance, cases.user)}
        if len(np.unique(cases.user[telling])) >= config.min_users:
            before, after_it = (
                mean_by_user((np.nan_to_num(values[1]) - chance)[telling], cases.user[telling])
                for values in (theirs, ours)
            )
            findings.append(self._finding("recall", config.recall_margin, before, after_it))
            beyond_chance["recalls"] = after_it
        if traffic is not None:
            if min(len(traffic.champion_clicks), len(traffic.challenger_clicks)) < config.min_users:
                return rejected(f"a side of the shared traffic has fewer than {config.min_users} users.", *findings)
            findings.append(self._of_traffic(traffic))
        failed = [each for each in findings if not each.is_non_inferior]
        if failed:
            told = "; ".join(
                f"{each.measure} {each.challenger:.4f} against {each.champion:.4f} may lose more than {100 * each.margin:g} %"
                for each in failed
            )
            return rejected(f"not shown to be non-inferior at level {config.alpha:g}: {told}.", *findings)
        for does, figure in beyond_chance.items():
            if not _low(figure, config.alpha) > 0:
                return rejected(f"it is not shown that the challenger {does} better than chance.", *findings)
        reason = f"non-inferior in {', '.join(each.measure for each in findings)} at level {config.alpha:g}."
        return Decision(True, reason, tuple(findings), count, users)

    def _finding(self, measure: str, margin: float, champion: Measured, challenger: Measured) -> Finding:
        """The paired test of two figures of the same users."""
        kept = Measured((1 - margin) * champion.value, (1 - margin) * champion.influence)
        error, freedom = _error((challenger - kept).influence)
        return self._told(measure, margin, champion.value, challenger.value, error, freedom)

    def _of_traffic(self, traffic: SharedTraffic) -> Finding:
        """The test of two figures of different users; degrees of freedom are Welch and Satterthwaite's."""
        margin = self.config.traffic_margin
        champion = Measured.ratio(traffic.champion_clicks, traffic.champion_requests)
        challenger = Measured.ratio(traffic.challenger_clicks, traffic.challenger_requests)
        (first, first_free), (second, second_free) = _error(champion.influence), _error(challenger.influence)
        parts = ((1 - margin) * first) ** 2, second**2
        variance = sum(parts)
        freedom = variance**2 / max(parts[0] ** 2 / first_free + parts[1] ** 2 / second_free, 1e-300)
        error = float(np.sqrt(variance))
        return self._told("clicks", margin, champion.value, challenger.value, error, max(freedom, 1.0))

    def _told(
        self, measure: str, margin: float, champion: float, challenger: float, error: float, freedom: float
    ) -> Finding:
        alpha = self.config.alpha
        low = challenger - (1 - margin) * champion - float(student.ppf(1 - alpha, freedom)) * error
        room = margin * max(champion, 0.0)
        power = float(nct.sf(student.ppf(1 - alpha, freedom), freedom, room / error)) if error > 0 else float(room > 0)
        return Finding(measure, champion, challenger, margin, low, power)


@dataclass(frozen=True)
class HeldOut:
    """M clicks in slates that were shown, with all that models are asked about them."""

    inputs: RankingInput
    """Of the slates, [M, K] items; popularity is what each model has counted."""
    user: NDArray[np.int64]
    """[M] user of each click."""
    place: NDArray[np.int64]
    """[M] place of the clicked item among the slate's."""
    others: NDArray[np.bool_]
    """[M, K] items of the slate that were passed over."""
    time: NDArray[np.int64]
    """[M] when the slate was shown, seconds since 1970."""
    catalogue: Catalogue = field(repr=False)
    """Says which items were on offer at that time."""
    consumed: tuple[NDArray[np.int64], NDArray[np.int32]] = field(repr=False)
    """(case [P], item [P]) of what users had consumed before; such items are not recommended again."""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, past: InteractionLog, events: InteractionLog, most: int = 5_000) -> Self:
        """The `most` newest clicks in slates of `events` in which something else was passed over."""
        events = events.where(events.request >= 0)
        together, new = joined(past, events)
        history = LogHistory(together, HISTORY_SIZE)
        first = history.slate_start
        rows = np.flatnonzero(new & together.clicked)
        passed = np.bincount(first[new & ~together.clicked], minlength=len(together) + 1)
        rows = rows[passed[first[rows]] > 0]
        rows = np.sort(rows[np.argsort(together.timestamp[rows], kind="stable")[-most:]])
        size = np.bincount(first[new], minlength=len(together) + 1)[first[rows]]
        at = first[rows][:, None] + np.arange(int(size.max(initial=1)))
        there = np.arange(at.shape[1]) < size[:, None]
        at = np.where(there, at, 0)
        items = np.where(there, together.item[at], -1).astype(np.int32)
        return cls(
            inputs=replace(history.inputs(rows, items), counts=None),
            user=together.user[rows].astype(np.int64),
            place=rows - first[rows],
            others=there & ~together.clicked[at],
            time=together.timestamp[first[rows]],
            catalogue=together.catalogue,
            consumed=_consumed_before(together, first[rows]),
        )

    @property
    def by_chance(self) -> NDArray[np.float64]:
        """[M] NDCG that a random order of the slate has on average."""
        passed = self.others.sum(axis=1)
        mean_up_to = np.cumsum(ndcg_at(np.arange(self.others.shape[1] + 1.0))) / np.arange(1, self.others.shape[1] + 2)
        return mean_up_to[passed]

    def measured(self, models: ServedModels, candidates: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([M] NDCG at 10 of the clicked item among those passed over, [M] 1 where recall finds it among `candidates` of the items
        on offer that the user had not consumed, else 0).

        Of items of equal score, those in a slate share the mean of their ranks; recall's candidates are drawn, and the chance
        counts. NaN where a score is not a finite number.
        """
        scores = models.score(self.inputs)
        own = scores[np.arange(len(self)), self.place][:, None]
        rank = ((scores > own) & self.others).sum(axis=1) + ((scores == own) & self.others).sum(axis=1) / 2
        is_whole = np.isfinite(np.where(self.inputs.items >= 0, scores, 0)).all(axis=1)
        return np.where(is_whole, ndcg_at(rank.astype(np.float64)), np.nan), self._found(models, candidates)

    def _found(self, models: ServedModels, candidates: int) -> NDArray[np.float64]:
        vectors = models.recall.item_vectors_
        if not np.isfinite(vectors).all():
            return np.full(len(self), np.nan)
        found = np.zeros(len(self))
        for rows, on_offer, target in self._on_offer(len(vectors)):
            scores = models.recall.user_vectors(self.inputs.history[rows]) @ vectors.T
            own = np.take_along_axis(scores, target[:, None], axis=1)
            better, alike = (((scores > own) & on_offer).sum(axis=1), ((scores == own) & on_offer).sum(axis=1))
            found[rows] = np.where(np.isfinite(own[:, 0]), _drawn(candidates - better, alike), np.nan)
        return found

    def found_by_chance(self, candidates: int) -> NDArray[np.float64]:
        """[M] chance that the clicked item is among `candidates` items drawn from those on offer that the user had not consumed."""
        chance = np.zeros(len(self))
        for rows, on_offer, _ in self._on_offer(len(self.catalogue)):
            chance[rows] = _drawn(candidates, on_offer.sum(axis=1))
        return chance

    def _on_offer(self, num_items: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]]:
        """Yields (cases [n], items that could have been shown in them [n, I], clicked items [n])."""
        target = self.inputs.items[np.arange(len(self)), self.place]
        case, item = self.consumed
        for first in range(0, len(self), _CHUNK):
            rows = np.arange(first, min(first + _CHUNK, len(self)))
            on_offer = self.catalogue.offered(np.arange(num_items), self.time[rows][:, None])
            low, high = np.searchsorted(case, [first, rows[-1] + 1])
            on_offer[case[low:high] - first, item[low:high]] = False
            # it was shown, whatever the catalogue says
            on_offer[np.arange(len(rows)), target[rows]] = True
            yield rows, on_offer, target[rows]


def _drawn(places: ArrayLike, among: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n] chance of each of `among` [n] to be drawn for `places`, in [0, 1]."""
    return np.clip(np.asarray(places) / np.maximum(among, 1), 0, 1)


def _consumed_before(log: InteractionLog, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(case [P], item [P]) of the items that the users of `rows` [M] had consumed above them; none where the log has repeats."""
    consumed = np.flatnonzero(log.clicked)
    begin = np.searchsorted(consumed, log.user_starts[log.user[rows]])
    number = np.searchsorted(consumed, rows) - begin
    if log.has_repeats:
        number = np.zeros_like(number)
    case = np.repeat(np.arange(len(rows)), number)
    place = np.arange(len(case)) - np.repeat(np.cumsum(number) - number, number)
    return case, log.item[consumed[begin[case] + place]]


def _error(influence: NDArray[np.float64]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of a figure of [1, U] influences; infinite error of fewer than two users."""
    users = influence.shape[1]
    if users < 2 or not np.isfinite(influence).all():
        return float("inf"), 1.0
    return float(np.sqrt(influence[0].var(ddof=1) / users)), users - 1.0


def _low(figure: Measured, alpha: float) -> float:
    """One-sided lower confidence limit of a figure of U users."""
    error, freedom = _error(figure.influence)
    return figure.value - float(student.ppf(1 - alpha, freedom)) * error
