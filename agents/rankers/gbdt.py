"""Gradient-boosted trees on crossed features."""

from dataclasses import dataclass
from typing import Any, ClassVar

import lightgbm
import numpy as np
from lightgbm.callback import CallbackEnv
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from agents.rankers.base import Progress, RankerConfig
from agents.rankers.crossed import CrossedRanker, Table

_PROGRESS_TREES = 10


@dataclass(frozen=True, kw_only=True)
class GBDTConfig(RankerConfig):
    """How `GBDT` is made."""

    trees: int = 500
    """Trees at most."""
    patience: int = 30
    """Trees without a better validation log-loss after which boosting ends; the best number is kept."""
    leaves: int = 31
    """Leaves of a tree at most."""
    leaf_rows: int = 50
    """Pairs in a leaf at least."""
    learning_rate: float = 0.05
    """Share of each tree that is added."""
    feature_share: float = 0.7
    """Share of the features that a tree may use."""
    row_share: float = 0.8
    """Share of the pairs that a tree is grown on."""
    update_trees: int = 10
    """Trees that an update adds."""


class GBDT(CrossedRanker):
    """Gradient-boosted trees (LightGBM) with the logistic loss on crossed features; the floor that others must beat.

    An update adds trees grown on the new events.
    Source: Ke et al. (2017), LightGBM: a highly efficient gradient boosting decision tree.
    """

    name: ClassVar[str] = "gbdt"
    config_class: ClassVar[type[RankerConfig]] = GBDTConfig
    booster_: lightgbm.Booster

    def _learn(
        self, training: Table, validation: Table, progress: Progress | None, curves: SummaryWriter | None
    ) -> None:
        stops = bool(len(validation.labels))

        def told(environment: CallbackEnv) -> None:
            number, figures = environment.iteration + 1, environment.evaluation_result_list or []
            objective = float(figures[0][2]) if figures else float("nan")
            if curves is not None:
                curves.add_scalar("log_loss", objective, number)
            if progress is not None and number % _PROGRESS_TREES == 0:
                progress(number, self.config.trees, objective)

        callbacks: list[Any] = [told]
        if stops:
            callbacks.append(lightgbm.early_stopping(self.config.patience, verbose=False))
        data = self._dataset(training)
        booster = lightgbm.train(
            self._parameters,
            data,
            self.config.trees,
            valid_sets=[self._dataset(validation, data)] if stops else None,
            callbacks=callbacks,
        )
        self.booster_ = _read(booster.model_to_string(num_iteration=booster.best_iteration if stops else -1))

    def _learn_more(self, events: Table) -> None:
        added = lightgbm.train(
            self._parameters, self._dataset(events), self.config.update_trees, init_model=self.booster_
        )
        self.booster_ = _read(added.model_to_string(num_iteration=-1))

    def _logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.booster_.predict(features, raw_score=True, num_threads=1)).astype(np.float32)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        text = self.booster_.model_to_string(num_iteration=-1)
        return super()._arrays() | {"trees": np.frombuffer(text.encode(), np.uint8)}

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        super()._restore(arrays)
        self.booster_ = _read(arrays["trees"].tobytes().decode())

    @property
    def num_parameters(self) -> int:
        """Splits and leaves of all trees, and the rates."""
        trees = self.booster_.dump_model()["tree_info"]
        rates = sum(array.size for array in super()._arrays().values())
        return rates + sum(2 * tree["num_leaves"] - 1 for tree in trees)

    @property
    def _parameters(self) -> dict[str, Any]:
        config = self.config
        return {
            "objective": "binary",
            "num_leaves": config.leaves,
            "min_data_in_leaf": config.leaf_rows,
            "learning_rate": config.learning_rate,
            "feature_fraction": config.feature_share,
            "bagging_fraction": config.row_share,
            "bagging_freq": 1,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }

    def _dataset(self, table: Table, like: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
        return lightgbm.Dataset(table.features, table.labels, reference=like, weight=table.weights, free_raw_data=False)


def _read(text: str) -> lightgbm.Booster:
    return lightgbm.Booster(model_str=text)
