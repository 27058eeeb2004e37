import numpy as np
import pytest
import torch
from torch import nn

from agents.rankers.training import OBJECTIVE, TrainingConfig, train, train_on
from envs.errors import ConfigurationError


def line(**config):
    """A line through (0, 0) and (1, 2), learnt step by step; the objectives of the passes are given."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1)
    x = torch.linspace(0, 1, 16)[:, None]

    def run(objectives, folder=None, progress=None):
        given = iter(objectives)
        weights = []

        def validate():
            weights.append(network.weight.item())
            return {OBJECTIVE: next(given)}

        passes = train(
            network,
            batches=lambda number: [x, x],
            loss=lambda batch: ((network(batch) - 2 * batch) ** 2).mean(),
            validate=validate,
            config=TrainingConfig(**{"learning_rate": 0.1, "weight_decay": 0.0, **config}),
            folder=folder,
            progress=progress,
        )
        return network, passes, weights

    return run


def test_training_stops_early_and_keeps_the_best_pass():
    network, passes, weights = line(epochs=20, patience=3)([5, 3, 4, 4, 4, 1, 0])
    assert len(passes) == 5
    assert network.weight.item() == weights[1] != weights[-1]
    assert not network.training


def test_without_validation_the_last_pass_is_kept():
    network, passes, weights = line(epochs=6, patience=2)([float("nan")] * 6)
    assert len(passes) == 6 and network.weight.item() == weights[-1]
    assert passes[-1]["loss"] < passes[0]["loss"]


def test_progress_and_curves(tmp_path):
    told = []
    line(epochs=3)([3, 2, 4], folder=tmp_path / "curves", progress=lambda *values: told.append(values))
    assert told == [(1, 3, 3.0), (2, 3, 2.0), (3, 3, 2.0)]
    assert any(path.name.startswith("events") for path in (tmp_path / "curves").iterdir())


def test_a_loss_that_is_not_finite_is_told():
    network = nn.Linear(1, 1)
    with pytest.raises(ConfigurationError, match="learning_rate"):
        train_on(network, lambda _: [None], lambda _: network.weight.sum() * np.nan, TrainingConfig())


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"patience": 0}, {"learning_rate": 0.0}, {"batch_size": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        TrainingConfig(**wrong)
