"""Pipelines against the simulated users: how well each serves, whether its offline measure foretold that, and what comes of
learning from one's own traffic.

`pipelines` fits rankers once and joins them with every re-ranker, `events` collects simulated traffic to learn from, `offline`
judges whole pipelines on held-out rows, `correlation` holds both against each other, `feedback` closes the loop, and `study` does
it all part by part in a run folder.
"""

from evaluation.serving.study import ServingStudyConfig, serving_study

__all__ = ["ServingStudyConfig", "serving_study"]
