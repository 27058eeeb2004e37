"""A verdict that is cut in the middle of a training goes on from that training's checkpoint, and ends as if it had not been cut."""

from contextlib import contextmanager

import pytest
from polars.testing import assert_frame_equal

from agents.rl import checkpoints
from agents.rl.checkpoints import Checkpoints
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import WorldConfig, build_world
from evaluation.comparison import ServingConfig
from evaluation.runs import Run
from evaluation.verdict.arena import arenas_of
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.finals import measure_bounds
from evaluation.verdict.jobs import Workshop
from evaluation.verdict.study import reach_verdict
from evaluation.verdict.worlds import Entry

QUICK = '''
from dataclasses import dataclass

from agents.rl.sb3 import SB3A2CAgent, SB3A2COptions


@dataclass(frozen=True, kw_only=True)
class Options(SB3A2COptions):
    num_envs: int = 8
    batch: int = 24
    hidden: tuple[int, ...] = (8,)


class Quick(SB3A2CAgent):
    """A learner of Stable-Baselines3 whose trainings have several batches, each with a checkpoint after it."""

    name = "quick"
    options_class = Options
'''


@contextmanager
def quietly(title, total):
    yield lambda done: None


def test_a_verdict_cut_in_the_middle_of_a_training_ends_as_an_uncut_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)  # write all that can be written
    (tmp_path / "quick.py").write_text(QUICK)
    log, model = generate_log(SyntheticConfig(num_users=30, num_items=60, events_per_user=8), seed=1)
    world = Entry("calm", lambda: build_world(log, model, WorldConfig(days=2)))
    config = VerdictConfig(
        rankers=("popular",),
        learners=(f"{tmp_path / 'quick.py'}:Quick",),
        configurations=2,
        requests=96,
        tuning_users=4,
        fresh_users=6,
        seeds=1,
        finalists=1,
        draws=20,
        traced_users=3,
        serving=ServingConfig(slate_size=4, num_candidates=15),
    )
    write, restore, written, restored = Checkpoints.write, Checkpoints.restore, [], []

    def judged(run, cut_after=None):
        """The verdict in a run folder, cut when so many checkpoints are written."""
        written.clear()

        def noted(self, learner, progress):
            write(self, learner, progress)
            written.append(progress.requests)
            if len(written) == cut_after:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoints, "write", noted)
        arenas = arenas_of([world], config, run, quietly)
        workshop = Workshop(arenas, run, quietly, 1)
        with workshop.open():
            measure_bounds(workshop)
            return reach_verdict(workshop, arenas, config, run)

    monkeypatch.setattr(Checkpoints, "restore", lambda self, learner: restored.append(1) or restore(self, learner))
    whole = judged(Run.create(tmp_path / "whole", "verdict", {}))
    assert written == 3 * [24, 48, 72, 96] and not restored  # two configurations, and the better one in the finals
    run = Run.create(tmp_path / "cut", "verdict", {})
    for number, cut_after in enumerate((2, 2 + 4 + 1)):
        with pytest.raises(KeyboardInterrupt):
            judged(run, cut_after)
        assert 0 < written[-1] < 96, "it was cut between trainings"
        assert len(restored) == number
    again = judged(run)
    assert len(restored) == 2 and written == [48, 72, 96]
    assert not list((tmp_path / "cut").rglob("checkpoint-*"))
    for name in ("bounds", "summary", "margins", "improvement", "entropy", "learning"):
        assert_frame_equal(getattr(again, name), getattr(whole, name))
    assert_frame_equal(again.trials.drop("seconds"), whole.trials.drop("seconds"))
    minutes = [column for column in whole.costs.columns if column.endswith("minutes")]
    assert_frame_equal(again.costs.drop(minutes), whole.costs.drop(minutes))
