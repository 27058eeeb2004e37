"""Agents trained by reinforcement learning: they set weights, blend rankers or score candidates for each request.

RLlib's algorithms sample whole batches (`batched_env_runner`), those of Stable-Baselines3 run on the same environment (`sb3`). All
are saved, loaded and served like any other agent, without Ray. Nothing is imported here, so that one does not load all.
"""
