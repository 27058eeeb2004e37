"""DRN in simulated traffic: serves training users, and learns from each vector step as it would from live answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from agents.actions.slate import SlateAction
from agents.base import Training
from agents.rl.checkpoints import Checkpoints, Progress
from agents.rl.networks import arrays_of
from agents.rl.served import LearningCurve, Trained, TrainingStopped
from agents.rl.traffic import read_learner, write_learner
from agents.updates.drn.learner import Learner
from envs.randomness import Purpose, draw_uniform


@dataclass
class Lesson:
    """What a training goes on from, as `Checkpoints` write and restore it."""

    learner: Learner
    env: SlateAction
    """The traffic, with next-step autoreset."""
    rows: NDArray[np.float32]
    """[N, W] the present requests."""

    def save_to_path(self, path: str) -> None:
        """Writes it into a folder."""
        write_learner(path, (self.learner, self.env, self.rows), self.env)

    def restore_from_path(self, path: str) -> None:
        """Takes it back, in the world of the present traffic."""
        self.learner, self.env, self.rows = read_learner(path, self.env)

    def step(self, most: int) -> NDArray[np.float64]:
        """Serves one request of everybody, and learns from at most `most` answers.

        Returns:
            [M] their rewards.
        """
        learner, env, slot = self.learner, self.env, np.arange(self.env.num_envs)
        served, slots = learner.memory.served, learner.memory.items.shape[1]
        keys = (slot[:, None, None], np.arange(slots)[:, None], np.arange(2))
        draws = draw_uniform(learner.seed, Purpose.AGENT, served, *keys)
        slates, numbers = learner.serve(self.rows, slot, draws)
        self.rows, reward, terminated, _, info = env.step(slates)
        active = info["active"]
        learner.memory.end(np.flatnonzero(terminated & active))
        # a slot whose life was over asked once more what is not answered, hence never learnt; it goes on with another life
        learner.activeness.forget(np.flatnonzero(~active))
        rows = np.flatnonzero(active)[:most]
        if np.isfinite(reward[rows]).all():
            clicked = info["clicked_slot"][rows, None] == np.arange(slots)
            learner.answer(numbers[rows], reward[rows, None] * clicked, -np.inf)
        return reward[rows]


def taught(lesson: Lesson, training: Training, name: str, checkpoints: Checkpoints | None) -> Trained:
    """Goes on with a lesson until the budget is spent; where it ends inside a vector step, the surplus is not learnt from.

    Args:
        lesson: just begun; the checkpoint's, where there is one.
        training: the budget.
        name: of the agent.
        checkpoints: None for none.

    Raises:
        TrainingStopped: if a reward or a weight is not finite; it holds the weights of the last point of the curve.
        ArtefactError: if the checkpoint is damaged, or one of another training.
    """
    curve, spent, earned, since = LearningCurve(training.report), 0, 0.0, 0
    initial = good = arrays_of(lesson.learner.network)
    resumed = checkpoints.progress() if checkpoints is not None else None
    if checkpoints is not None and resumed is not None:
        checkpoints.restore(lesson)
        initial, good, spent = resumed.initial, arrays_of(lesson.learner.network), resumed.requests
        curve.go_on(resumed.learning_curve)
    iteration = lesson.learner.options.iteration
    writer = SummaryWriter(str(training.folder)) if training.folder is not None else None
    try:
        while spent < training.requests:
            rewards = lesson.step(training.requests - spent)
            spent, since, earned = spent + len(rewards), since + len(rewards), earned + float(rewards.sum())
            if not np.isfinite(earned):
                raise _stopped(name, "a reward", spent, Trained(initial, good, curve.points()))
            if since < iteration and spent < training.requests:
                continue
            good, before = arrays_of(lesson.learner.network), good
            if not all(np.isfinite(weights).all() for weights in good.values()):
                raise _stopped(name, "a weight", spent, Trained(initial, before, curve.points()))
            curve.add(spent, earned / max(since, 1))
            if writer is not None:
                _write(writer, lesson.learner, earned / max(since, 1), spent)
            earned, since = 0.0, 0
            if checkpoints is not None and (checkpoints.due or spent == training.requests):
                checkpoints.write(lesson, Progress(spent, initial, curve.points()))
    finally:
        if writer is not None:
            writer.close()
    return Trained(initial, good, curve.points())


def _write(writer: SummaryWriter, learner: Learner, reward: float, spent: int) -> None:
    writer.add_scalar("reward", reward, spent)
    writer.add_scalar("duels_won", learner.won / max(learner.duels, 1), spent)
    if np.isfinite(learner.loss):
        writer.add_scalar("total_loss", learner.loss, spent)


def _stopped(name: str, what: str, spent: int, kept: Trained) -> TrainingStopped:
    return TrainingStopped(
        f"agent '{name}' cannot go on: {what} is not finite after {spent:,} requests; kept is the policy of the last point of its "
        "curve. Lower learning_rate, or look for rewards that are no numbers.",
        kept,
    )
