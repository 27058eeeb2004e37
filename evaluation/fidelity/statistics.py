"""What the distances compare: values that belong to users, so that any half of the users can be looked at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY, Catalogue
from envs.logs.schema import VISIT_GAP_SECONDS
from envs.measures import category_entropy
from evaluation.fidelity.calendar import CalendarEvents
from evaluation.fidelity.free_running import Sequences
from evaluation.fidelity.sequence_features import LAGS, ItemFeatures


@dataclass(frozen=True, kw_only=True)
class UserValues:
    """M values, each of a user."""

    user: NDArray[np.int64]
    """[M] index of the user."""
    value: NDArray[np.float64]
    """[M]."""

    def of(self, users: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Values of the users chosen in `users` [U]."""
        return self.value[users[self.user]]


@dataclass(frozen=True, kw_only=True)
class LagPairs:
    """How often a user's items so far apart share a category."""

    repeats: NDArray[np.float64]
    """[U, lags] pairs that share one."""
    pairs: NDArray[np.float64]
    """[U, lags] pairs."""


@dataclass(frozen=True, kw_only=True)
class UserSample:
    """Users of one kind, real or simulated, as the distances see them."""

    num_items: int
    events: Sequences
    """Items by length."""
    values: dict[str, UserValues]
    """Name of the aspect -> values."""
    repeats: LagPairs

    def item_counts(self, users: NDArray[np.bool_]) -> NDArray[np.int64]:
        """[I] how often the users chosen in `users` [U] consumed each item."""
        return np.bincount(self.events.item[users[self.events.user]], minlength=self.num_items)


def user_sample(
    events: Sequences,
    calendar: CalendarEvents,
    catalogue: Catalogue,
    features: ItemFeatures,
    exposures: dict[str, UserValues],
) -> UserSample:
    """The sample of one kind of users.

    Args:
        events: sequences whose length is given.
        calendar: events from one date for all until the log's end.
        catalogue: public features of the items.
        features: what else is known of items.
        exposures: click rates and watch times, where the log has them.
    """
    same_user = events.user[1:] == events.user[:-1]
    first, second = events.item[:-1][same_user], events.item[1:][same_user]
    similarity = (features.embedding[first] * features.embedding[second]).sum(axis=1)
    mass = np.zeros((events.num_users, catalogue.num_categories))
    np.add.at(mass, events.user, catalogue.categories[events.item])
    users = np.flatnonzero(np.diff(events.starts) > 0)
    age = (events.timestamp - catalogue.birth[events.item]) / SECONDS_PER_DAY
    values = {
        "category_entropy": UserValues(user=users, value=category_entropy(mass[users])),
        "similarity": UserValues(user=events.user[1:][same_user], value=similarity),
        "item_age": UserValues(user=events.user, value=np.log1p(np.maximum(age, 0))),
        **calendar_values(calendar),
        **exposures,
    }
    return UserSample(
        num_items=len(catalogue), events=events, values=values, repeats=category_repeats(events, features.directions)
    )


def calendar_values(calendar: CalendarEvents) -> dict[str, UserValues]:
    """'activity' (log of 1 + items), 'visit_length' (log of items; a visit cut by the date counts from there) and 'gap' (log of
    days before a visit)."""
    first = np.diff(calendar.user, prepend=-1) != 0
    previous = np.roll(calendar.timestamp, 1)
    previous[first] = calendar.last_known[np.searchsorted(calendar.users, calendar.user[first])]
    away = calendar.timestamp - previous
    after_gap = away > VISIT_GAP_SECONDS
    begins = np.flatnonzero(first | after_gap)
    lengths = np.diff(np.append(begins, len(calendar)))
    gaps = np.flatnonzero(after_gap)
    return {
        "activity": UserValues(user=calendar.users, value=np.log1p(calendar.items)),
        "visit_length": UserValues(user=calendar.user[begins], value=np.log(np.maximum(lengths, 1))),
        "gap": UserValues(user=calendar.user[gaps], value=np.log(away[gaps] / SECONDS_PER_DAY)),
    }


def category_repeats(events: Sequences, directions: NDArray[np.float64]) -> LagPairs:
    """Pairs of items of a user at each lag of `LAGS`, and how many of them have a category in common."""
    repeats, pairs = np.zeros((2, events.num_users, len(LAGS)))
    for column, lag in enumerate(LAGS):
        same = np.flatnonzero(events.user[lag:] == events.user[:-lag])
        shared = (directions[events.item[same]] * directions[events.item[same + lag]]).sum(axis=1) > 0
        pairs[:, column] = np.bincount(events.user[same], minlength=events.num_users)
        repeats[:, column] = np.bincount(events.user[same], shared, minlength=events.num_users)
    return LagPairs(repeats=repeats, pairs=pairs)
