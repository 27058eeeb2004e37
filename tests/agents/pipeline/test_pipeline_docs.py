"""The pipeline in docs/agents.md, as it stands there."""

import re
from pathlib import Path

import numpy as np
from numpy.testing import assert_array_equal

from agents.pipeline import Pipeline, PipelineConfig
from agents.rerankers import Reranker, best_first
from envs.logs.synthetic import SyntheticConfig, generate_log

PAGE = Path(__file__).parents[3] / "docs" / "agents.md"


def test_the_page_s_configuration_and_re_ranker_work(tmp_path, monkeypatch):
    section = PAGE.read_text(encoding="utf-8").split("## Re-rankers and pipelines")[1]
    table = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)[0]
    serve, strangers, reranker = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "pipeline.toml").write_text(table.replace("mf_bpr", "logistic"))  # the faster ranker
    monkeypatch.chdir(tmp_path)
    log = generate_log(SyntheticConfig(num_users=50, events_per_user=20, num_items=150, embedding_size=4), seed=0)[0]
    names = {
        "Pipeline": Pipeline,
        "PipelineConfig": PipelineConfig,
        "Path": Path,
        "Reranker": Reranker,
        "best_first": best_first,
        "np": np,
        "log": log,
    }
    exec(serve, names)
    assert names["found"].items.shape == (1, 10) and (names["found"].items >= 0).all()
    exec(strangers, names)
    assert (names["found"].items[1] >= 0).all() and not set(range(5)) & set(names["found"].items[1].tolist())
    exec(reranker, names)
    moment = np.array([log.timestamp.max() + 1])
    observation, _ = names["pipeline"].observe(np.array([3]), moment)
    scores, slots = names["pipeline"].choose(observation, 10)
    best = np.argsort(-scores[0], kind="stable")[:20]
    age = observation.candidates.age[0]
    assert_array_equal(age[slots[0]], np.sort(age[best])[:10])
