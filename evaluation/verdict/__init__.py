"""The verdict: does reinforcement learning beat tuned supervised pipelines, by how much, and how sure is that?

`study` runs it from end to end: bounds from oracles, a search that is the same for all, finals in several worlds on users
whom nobody has met, and a trade-off under other rewards. docs/verdict.md tells the method and its rules.
"""
