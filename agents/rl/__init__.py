"""Agents trained by reinforcement learning: they set the re-ranker's weights for each request.

RLlib's PPO and DQN sample whole batches (`batched_env_runner`), Stable-Baselines3's PPO runs on the same environment (`sb3`). All
are saved, loaded and served like any other agent, without Ray. Nothing is imported here, so that one does not load all.
"""
