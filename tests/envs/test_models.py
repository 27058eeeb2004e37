import re
from pathlib import Path

import numpy as np
import pytest
from fitted_logs import draw_log, make_model

from envs.errors import ConfigurationError
from envs.slate_env import SlateVectorEnv
from envs.users.dien import DienModel
from envs.users.fit import FitConfig
from envs.users.interest import InterestModel
from envs.users.likelihood import split_events, user_model_likelihood
from envs.users.measure import likelihood_reports
from envs.users.models import check_user_model, fit_user_model

DOCS = Path(__file__).parents[2] / "docs"
QUICK = FitConfig(embedding_size=4, epochs=2)


@pytest.fixture(scope="module")
def log():
    return draw_log(make_model(users=12), events=25, visit_share=0.2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def documented(tmp_path):
    """The file of the example in the docs."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "user-model-dien.md").read_text(), re.DOTALL)
    path = tmp_path / "category_follower.py"
    path.write_text(code)
    return f"{path}:CategoryFollower"


def test_names_give_models_of_their_kind(log, cache):
    assert isinstance(fit_user_model("parametric", log, QUICK, progress=False), InterestModel)
    assert isinstance(fit_user_model("dien", log, QUICK, progress=False), DienModel)


def test_the_documented_model_is_fitted_measured_and_simulated(log, cache, documented):
    model = fit_user_model(documented, log, QUICK, progress=False)
    figures = user_model_likelihood(model, log.catalogue.birth, split_events(log)).mean()
    assert np.isfinite(figures).all()
    reports = likelihood_reports(log, QUICK, progress=False, user_model=documented)
    assert list(reports) == ["evolving", "static", "popularity", "CategoryFollower"]
    assert reports["CategoryFollower"]["masked"] == figures[0]
    env = SlateVectorEnv(12, log=log, user_model=model, slate_size=3, num_candidates=10)
    env.reset(seed=0)
    clicks = 0
    for _ in range(20):
        _, _, _, _, info = env.step(np.tile(np.arange(3), (12, 1)))
        clicks += (info["clicked_slot"] >= 0).sum()
    assert clicks > 0


def test_dien_is_reported_as_logged_and_shuffled(log, cache):
    reports = likelihood_reports(log, QUICK, shuffled=True, progress=False, user_model="dien")
    names = ["evolving", "static", "popularity"]
    assert list(reports) == [*names, "dien", *(f"{name}, shuffled" for name in [*names, "dien"])]
    assert reports["dien, shuffled"]["shuffled"]
    assert likelihood_reports(log, QUICK, shuffled=True, progress=False, user_model="dien") == reports


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("dein", "did you mean 'dien'"),
        ("nowhere.py:Model", "does not exist"),
        ("{file}:Half", "lacks pause, expected_rating, rate"),
        ("{file}:Missing", "has no class 'Missing'"),
    ],
)
def test_what_is_no_user_model_is_refused_before_any_fit(tmp_path, spec, told):
    path = tmp_path / "mine.py"
    methods = "".join(f"    def {name}(self): ...\n" for name in ("fit", "start", "preference", "consume"))
    path.write_text(f"class Half:\n{methods}")
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        check_user_model(spec.format(file=path))


def test_a_fit_that_leaves_out_what_the_engine_reads_is_refused(log, tmp_path):
    path = tmp_path / "mine.py"
    names = ("start", "preference", "consume", "pause", "expected_rating", "rate")
    methods = "".join(f"    def {name}(self): ...\n" for name in names)
    path.write_text(f"class Bare:\n    def fit(self, log, seed):\n        return self\n{methods}")
    with pytest.raises(ConfigurationError, match="lacks item_vectors, item_bias"):
        fit_user_model(f"{path}:Bare", log, QUICK, progress=False)
