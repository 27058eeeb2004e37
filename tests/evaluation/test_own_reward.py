import numpy as np
import pytest

from envs.errors import ConfigurationError
from evaluation.comparison import ComparisonConfig
from evaluation.options import CompareOptions
from evaluation.runs import Run
from evaluation.training import run_comparison


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from envs.rewards import Reward\n\nclass Visits(Reward):\n    def of(self, parts):\n        return 3.0 * parts.left\n"
        "\nclass Idle(Reward):\n    pass\n"
    )
    return path


def test_a_comparison_pays_by_a_reward_of_a_file(file, small_world, candidate_source, small, tmp_path):
    chosen = CompareOptions(dataset="synthetic", reward=f"{file}:Visits").comparison()
    assert isinstance(chosen, ComparisonConfig)
    serving = chosen.serving.__class__(slate_size=5, num_candidates=20, reward_weights=chosen.serving.reward_weights)
    comparison = small.__class__(serving=serving, traced_users=0)
    agents = ["random", "oracle_myopic"]
    run = Run.create(tmp_path / "run", "compare", {})
    lives = run_comparison(agents, small_world, candidate_source, run, comparison=comparison).users
    left = lives["reward"].to_numpy() / 3
    # whoever came back has left before; whoever ends by leaving has left once more
    assert np.isin(left - (lives["visits"].to_numpy() - 1), [0, 1]).all() and left.max() > 1


def test_a_wrong_reward_is_refused_before_anything_is_done(file):
    with pytest.raises(ConfigurationError, match=r"lacks the method of\(self, parts\)"):
        CompareOptions(reward=f"{file}:Idle")
    with pytest.raises(ConfigurationError, match="pays by a rule of its own; leave out --diversity-weight"):
        CompareOptions(reward=f"{file}:Visits", diversity_weight=1.0)
