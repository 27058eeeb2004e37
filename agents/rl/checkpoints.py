"""Checkpoints of a training: what the learner writes of itself, and beside it whether that belongs to this training, and how far it
has come.

A training that is cut short goes on from its last checkpoint with its weights, optimiser, replay, learning curve and the lives
under way: as if it had not been cut, to the bit for bandits and Stable-Baselines3, up to rounding for RLlib. Only lives in workers
begin anew, with other draws than from the start.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from agents.base import Training
from agents.rl.served import Weights, with_prefix
from envs.artefacts import load_arrays, save_arrays
from envs.errors import ArtefactError, ConfigurationError

PREFIX, _UNFINISHED = "checkpoint-", ".checkpoint-"
"""Folders by which a training goes on begin with the prefix; whoever had the agent trained deletes them once it is saved."""
_SHARE = 0.1
"""Share of a training's time that its checkpoints may take."""


class InTraining(Protocol):
    """An agent, as far as a checkpoint must be one of its own."""

    slate_size: int
    options: Any
    data_: str


class Learner(Protocol):
    """What trains: an algorithm of RLlib, or whatever else writes and reads its own state."""

    def save_to_path(self, path: str) -> Any:
        """Writes all that the training goes on from into a folder that it makes."""

    def restore_from_path(self, path: str) -> Any:
        """Takes back what `save_to_path` wrote."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    requests: int
    """Requests spent."""
    initial: Weights
    """The policy before training; empty for bandits, which have no network."""
    learning_curve: NDArray[np.float64]
    """[M, 2] as in `Trained`."""


class Checkpoints:
    """The newest checkpoint of one training in a folder, written whole or not at all.

    Args:
        folder: of the training.
        about: what the training is of, as JSON can hold it: agent, options, data set, shape, budget, seed. A checkpoint of another
            training is refused.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)
        self._not_before = 0.0

    @classmethod
    def of(cls, agent: InTraining, training: Training, shape: Any) -> Self | None:
        """Those of an agent's training, in its folder; None where it has none.

        Args:
            agent: in training.
            training: the budget.
            shape: of what the agent reads, as JSON can hold it.
        """
        if training.folder is None:
            return None
        about = {
            "agent": type(agent).__name__,
            "slate size": agent.slate_size,
            "options": asdict(agent.options),
            "data set": agent.data_,
            "shape": shape,
            "requests": training.requests,
            "seed": training.seed,
        }
        return cls(training.folder, json.loads(json.dumps(about)))

    def progress(self) -> Progress | None:
        """How far the newest checkpoint is; None where there is none.

        Raises:
            ArtefactError: if it is damaged, or one of another training.
        """
        newest = self._newest()
        if newest is None:
            return None
        arrays, about = load_arrays(newest / "progress.npz", "checkpoint")
        other = sorted(name for name in {*about, *self.about} if about.get(name) != self.about.get(name))
        if other:
            raise ArtefactError(
                f"'{newest}' is the checkpoint of another training ({', '.join(other)} differ); "
                "give another folder, or delete this one."
            )
        return Progress(int(arrays["requests"]), with_prefix(arrays, "initial."), arrays["curve"].reshape(-1, 2))

    @property
    def due(self) -> bool:
        """Whether another may be written now: writing takes at most a tenth of the time, however large a checkpoint is."""
        return time.monotonic() >= self._not_before

    def restore(self, learner: Learner) -> None:
        """Gives a learner the state in the newest checkpoint.

        Raises:
            ArtefactError: if it is damaged.
        """
        newest = self._newest()
        assert newest is not None
        try:
            learner.restore_from_path(str((newest / "learner").resolve()))
        except Exception as error:  # pickle raises whatever it likes
            raise ArtefactError(f"'{newest}' is damaged ({error}); delete it and train anew.") from error

    def write(self, learner: Learner, progress: Progress) -> None:
        """Writes a checkpoint, then deletes older ones.

        Raises:
            ConfigurationError: if the folder cannot be written.
        """
        begin = time.monotonic()
        arrays: dict[str, NDArray[Any]] = {f"initial.{name}": array for name, array in progress.initial.items()}
        arrays |= {"requests": np.array(progress.requests), "curve": progress.learning_curve}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self.folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(unfinished)
            temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.folder))
        except OSError as error:
            raise ConfigurationError(
                f"'{self.folder}' cannot be written ({error.strerror}); choose another folder or mend its permissions."
            ) from error
        try:
            learner.save_to_path(str((temporary / "learner").resolve()))
            save_arrays(temporary / "progress.npz", "checkpoint", arrays, self.about)
            temporary.rename(self.folder / f"{PREFIX}{progress.requests:012d}")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for older in self._all()[:-1]:
            shutil.rmtree(older)
        took = time.monotonic() - begin
        self._not_before = begin + took / _SHARE

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob(f"{PREFIX}[0-9]*")) if self.folder.is_dir() else []

    def _newest(self) -> Path | None:
        return next(reversed(self._all()), None)
