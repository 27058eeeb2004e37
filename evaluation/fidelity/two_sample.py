"""Classifier two-sample tests: how well can a classifier tell real users from simulated ones?

A user's real and simulated sequence are always in the same fold, and the classifier judges users that it has not been fitted to.
An AUC of 0.5 is what indistinguishable users give. Intervals: bootstrap over users.

Source: Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

FOLDS = 5
_BOOTSTRAP = 400


@dataclass(frozen=True, kw_only=True)
class TwoSample:
    """How well real and simulated users are told apart."""

    auc: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    is_simulated: NDArray[np.bool_]
    """[S] whether a sequence is simulated."""
    score: NDArray[np.float64]
    """[S] out-of-fold score, higher for what looks simulated."""
    importance: dict[str, tuple[float, float]]
    """Statistic -> (loss of AUC when it is permuted among users, its standard error over folds); empty for sequences."""


def folds_by_user(users: NDArray[np.int64], seed: int, folds: int = FOLDS) -> NDArray[np.int64]:
    """[S] fold of each sequence, the same for all sequences of a user (`users` [S])."""
    unique, inverse = np.unique(users, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    return (order % folds)[inverse]


def boosted_trees(seed: int) -> HistGradientBoostingClassifier:
    """Regularised: some 900 users a side over-fit larger trees."""
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=150,
        max_leaf_nodes=8,
        min_samples_leaf=20,
        l2_regularization=5.0,
        max_features=0.5,
        random_state=seed,
    )


def tree_test(
    real: NDArray[np.float64],
    simulated: NDArray[np.float64],
    real_users: NDArray[np.int64],
    simulated_users: NDArray[np.int64],
    names: tuple[str, ...],
    *,
    seed: int = 0,
    importances: bool = False,
) -> TwoSample:
    """Boosted trees on statistics of users, real [S1, k] against simulated [S2, k]."""
    values = np.concatenate([real, simulated])
    users = np.concatenate([real_users, simulated_users])
    label = np.repeat([False, True], [len(real), len(simulated)])
    fold = folds_by_user(users, seed)
    score = np.empty(len(values))
    losses = []
    rng = np.random.default_rng(seed)
    for number in range(FOLDS):
        held = fold == number
        model = boosted_trees(seed).fit(values[~held], label[~held])
        score[held] = model.predict_proba(values[held])[:, 1]
        if importances:
            losses.append(_permutation_losses(model, values[held], label[held], rng))
    importance = {}
    if importances:
        table = np.array(losses)
        mean, error = table.mean(axis=0), table.std(axis=0, ddof=1) / np.sqrt(FOLDS)
        importance = {name: (float(mean[k]), float(error[k])) for k, name in enumerate(names)}
    return scored(label, score, users, importance, seed)


def scored(
    label: NDArray[np.bool_],
    score: NDArray[np.float64],
    users: NDArray[np.int64],
    importance: dict[str, tuple[float, float]],
    seed: int,
) -> TwoSample:
    """The AUC of out-of-fold scores with its interval: users are drawn with replacement, with all their sequences."""
    _, inverse = np.unique(users, return_inverse=True)
    rng = np.random.default_rng(seed)
    count = inverse.max() + 1
    drawn = []
    for _ in range(_BOOTSTRAP):
        weight = np.bincount(rng.integers(count, size=count), minlength=count)[inverse]
        drawn.append(roc_auc_score(label, score, sample_weight=weight))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return TwoSample(
        auc=float(roc_auc_score(label, score)),
        low=float(low),
        high=float(high),
        is_simulated=label,
        score=score,
        importance=importance,
    )


def _permutation_losses(
    model: HistGradientBoostingClassifier,
    values: NDArray[np.float64],
    label: NDArray[np.bool_],
    rng: np.random.Generator,
    repeats: int = 3,
) -> list[float]:
    whole = roc_auc_score(label, model.predict_proba(values)[:, 1])
    losses = []
    for column in range(values.shape[1]):
        aucs = []
        for _ in range(repeats):
            shuffled = values.copy()
            shuffled[:, column] = rng.permutation(shuffled[:, column])
            aucs.append(roc_auc_score(label, model.predict_proba(shuffled)[:, 1]))
        losses.append(float(whole - np.mean(aucs)))
    return losses
