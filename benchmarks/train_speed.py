"""Speed of training: RLlib with our sampling and learners beside Stable-Baselines3 and beside RLlib as shipped.

Run: python -m benchmarks.train_speed          (some fifteen minutes)

All train on an environment that costs next to nothing (`benchmarks.train_stub`), so what is measured is the library: 256
environments; PPO with separate networks of 64-64 for policy and value, batches of 8,192 steps, minibatches of 1,024, four
epochs; DQN with RLlib's duelling network, double Q-learning and four gradient steps of 512 transitions after each step of all.

- ppo_vs_sb3: steps per second of RLlib's PPO with ours over those of SB3's PPO, each on the same single core;
- ppo_vs_sb3_two_cores: the same on two cores, ours with one worker that samples beside the learner (with a lag of exactly one
  batch), SB3 with two threads of torch;
- dqn_vs_shipped, ppo_vs_shipped: over RLlib as shipped, on one core;
- return_difference_share: final reward per step of PPO with ours minus that of RLlib as shipped after 120,000 steps, over five
  seeds, as a share of the latter, with the 95 % interval of paired differences by t.

Each contender lives in a process of its own, pinned to its cores, which stays warm; ratios are medians over five interleaved
rounds.
Prints figures last, and writes them to results/train_speed.json.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import t as student

from envs.artefacts import save_json

ROUNDS, SECONDS = 5, 6.0
NUM_ENVS, BATCH, MINIBATCH, EPOCHS = 256, 8_192, 1_024, 4
DQN_MINIBATCH, DQN_GRADIENT_STEPS, DQN_BUFFER = 512, 4, 100_000
SEEDS, FINAL_STEPS = 5, 120_000
FOREVER = 10**12

ONE_CORE = ("ppo_ours", "ppo_sb3", "ppo_shipped", "dqn_ours", "dqn_shipped")
TWO_CORES = ("ppo_ours_two_cores", "ppo_sb3_two_cores")


# ---------------------------------------------------------------------- contenders; each runs in a process of its own
def ppo_settings() -> dict[str, Any]:
    """RLlib's settings that are SB3's defaults, but for what the benchmark sets."""
    return {
        "train_batch_size_per_learner": BATCH,
        "minibatch_size": MINIBATCH,
        "num_epochs": EPOCHS,
        "lr": 1e-3,
        "gamma": 0.99,
        "lambda_": 0.95,
        "use_kl_loss": False,
        "entropy_coeff": 0.0,
        "vf_clip_param": float("inf"),
        "vf_loss_coeff": 0.5,
        "grad_clip": 0.5,
        "grad_clip_by": "global_norm",
    }


def dqn_settings() -> dict[str, Any]:
    """RLlib's settings of double duelling DQN, replaying all transitions alike."""
    return {
        "lr": 5e-4,
        "gamma": 0.99,
        "n_step": 1,
        "double_q": True,
        "dueling": True,
        "num_atoms": 1,
        "target_network_update_freq": 2_000,
        "td_error_loss_fn": "huber",
        "grad_clip": 10,
        "grad_clip_by": "global_norm",
    }


MODEL = {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False}


@contextmanager
def ppo_ours(seed: int = 0, runners: int = 0) -> Iterator[Callable[[], tuple[int, float]]]:
    """RLlib's PPO with our env runner and learner, and RLlib's own network."""
    from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
    from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule

    from agents.rl.batched_env_runner import AdvantageEnvRunner
    from agents.rl.ppo import BatchedPPOConfig
    from agents.rl.rllib import local_algorithm
    from benchmarks.train_stub import StubVectorEnv

    with local_algorithm(
        BatchedPPOConfig().training(**ppo_settings()),
        make_env=lambda: StubVectorEnv(NUM_ENVS),
        env_runner=AdvantageEnvRunner,
        module=DefaultPPOTorchRLModule,
        catalog=PPOCatalog,
        model_config=MODEL,
        limit=FOREVER,
        seed=seed,
        runners=runners,
        beside=bool(runners),
        scale_rewards=False,
    ) as algorithm:

        def train() -> tuple[int, float]:
            before = algorithm.requests
            algorithm.train()
            return algorithm.requests - before, algorithm.reward_per_request()

        yield train


@contextmanager
def dqn_ours() -> Iterator[Callable[[], tuple[int, float]]]:
    """RLlib's DQN with our env runner, replay buffer and learner, and RLlib's own network."""
    from ray.rllib.algorithms.dqn.dqn_catalog import DQNCatalog
    from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule

    from agents.rl.batched_env_runner import EpsilonGreedyEnvRunner
    from agents.rl.dqn import BatchedDQNConfig, DQNOptions
    from agents.rl.rllib import local_algorithm
    from benchmarks.train_stub import StubVectorEnv

    options = DQNOptions(
        num_envs=NUM_ENVS,
        buffer=DQN_BUFFER,
        minibatch=DQN_MINIBATCH,
        gradient_steps=DQN_GRADIENT_STEPS,
        warm_up_share=0.0,
        gamma=0.99,
        n_step=1,
    )
    config = BatchedDQNConfig().training(**dqn_settings())
    with local_algorithm(
        config.reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0),
        make_env=lambda: StubVectorEnv(NUM_ENVS),
        env_runner=EpsilonGreedyEnvRunner,
        module=DefaultDQNTorchRLModule,
        catalog=DQNCatalog,
        model_config=MODEL | {"double_q": True, "dueling": True, "num_atoms": 1},
        limit=FOREVER,
        options=options,
        seed=0,
    ) as algorithm:

        def train() -> tuple[int, float]:
            before = algorithm.requests
            algorithm.train()
            return algorithm.requests - before, algorithm.reward_per_request()

        yield train


@contextmanager
def shipped(name: str, seed: int = 0) -> Iterator[Callable[[], tuple[int, float]]]:
    """RLlib's PPO or DQN as shipped, on the same native vector environment."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    from agents.rl.networks import one_thread
    from agents.rl.rllib import quiet_rllib, start_ray
    from benchmarks.train_stub import LIFE, StubVectorEnv

    start_ray()
    register_env("stub", lambda config: StubVectorEnv(config["num_envs"]))
    config: AlgorithmConfig
    if name == "ppo":
        config = PPOConfig().training(**ppo_settings())
    else:
        config = DQNConfig().training(
            **dqn_settings(),
            train_batch_size_per_learner=DQN_MINIBATCH,
            # steps that only reset do not count, so a call for NUM_ENVS steps takes two of all: as many updates for both
            training_intensity=2 * DQN_MINIBATCH * DQN_GRADIENT_STEPS / NUM_ENVS,
            num_steps_sampled_before_learning_starts=NUM_ENVS,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": DQN_BUFFER},
        )
        config.reporting(min_sample_timesteps_per_iteration=NUM_ENVS)
    config = (
        config.environment("stub")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=NUM_ENVS,
            gym_env_vectorize_mode="vector_entry_point",
            rollout_fragment_length="auto" if name == "ppo" else 1,
        )
        .learners(num_learners=0)
        .rl_module(model_config=MODEL)
        .debugging(seed=seed, log_level="ERROR")
    )
    with quiet_rllib(), one_thread():
        algorithm = config.build_algo()

        def train() -> tuple[int, float]:
            sampled = algorithm.train()["env_runners"]
            return int(sampled["num_env_steps_sampled"]), float(sampled.get("episode_return_mean", np.nan)) / LIFE

        yield train
        algorithm.stop()


@contextmanager
def ppo_sb3(threads: int = 1) -> Iterator[Callable[[], tuple[int, float]]]:
    """Stable-Baselines3's PPO."""
    import torch
    from gymnasium.vector import AutoresetMode
    from stable_baselines3 import PPO

    from agents.rl.sb3 import SB3VecEnv
    from benchmarks.train_stub import StubVectorEnv

    torch.set_num_threads(threads)
    env = SB3VecEnv(StubVectorEnv(NUM_ENVS, AutoresetMode.SAME_STEP))
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=BATCH // NUM_ENVS,
        batch_size=MINIBATCH,
        n_epochs=EPOCHS,
        learning_rate=1e-3,
        device="cpu",
        seed=0,
        policy_kwargs={"net_arch": [64, 64]},
    )

    def train() -> tuple[int, float]:
        model.learn(BATCH, reset_num_timesteps=False)
        return BATCH, env.reward_per_request()

    yield train


CONTENDERS: dict[str, Callable[[], Any]] = {
    "ppo_ours": ppo_ours,
    "ppo_sb3": ppo_sb3,
    "ppo_shipped": lambda: shipped("ppo"),
    "dqn_ours": dqn_ours,
    "dqn_shipped": lambda: shipped("dqn"),
    "ppo_ours_two_cores": lambda: ppo_ours(runners=1),
    "ppo_sb3_two_cores": lambda: ppo_sb3(threads=2),
}


def contend(name: str) -> None:
    """Answers each line on the standard input with steps per second over some seconds of training."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    with CONTENDERS[name]() as train:
        for _ in range(3):
            train()
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            begin, steps = time.perf_counter(), 0
            while (seconds := time.perf_counter() - begin) < SECONDS:
                steps += train()[0]
            print(steps / seconds, file=answers, flush=True)


def final_returns(name: str) -> None:
    """Prints the reward per step at the end of training, seed by seed."""
    answers, sys.stdout = sys.stdout, sys.stderr
    found = []
    for seed in range(SEEDS):
        with ppo_ours(seed) if name == "ppo_ours" else shipped("ppo", seed) as train:
            steps, rewards = 0, []
            while steps < FINAL_STEPS:
                more, reward = train()
                steps += more
                rewards.append(reward)
        found.append(float(np.mean(rewards[-3:])))
    print(json.dumps(found), file=answers, flush=True)


# ---------------------------------------------------------------------- the rounds
class Contender:
    """A contender's process, pinned to `cores` cores."""

    def __init__(self, name: str, cores: int) -> None:
        self._process = _process(["contend", name], cores, stdin=subprocess.PIPE)
        self._read()

    def measure(self) -> float:
        """Steps per second."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """Ends the process, and what it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("a contender's process ended; what it printed above says why.")
        return answer


def _process(arguments: list[str], cores: int, **streams: Any) -> subprocess.Popen[str]:
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(cores))
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.train_speed", *arguments],
        env={**os.environ, **threads},
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        stdout=subprocess.PIPE,
        text=True,
        **streams,
    )


def speeds(names: tuple[str, ...], cores: int) -> dict[str, list[float]]:
    """Steps per second of each contender in each round."""
    contenders: dict[str, Contender] = {}
    rounds: dict[str, list[float]] = {name: [] for name in names}
    try:
        for name in names:
            contenders[name] = Contender(name, cores)
        for number in range(ROUNDS):
            for name, contender in contenders.items():
                rounds[name].append(contender.measure())
            rates = ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rounds.items())
            print(f"{cores} core(s), round {number + 1} of {ROUNDS}: {rates}", file=sys.stderr, flush=True)
    finally:
        for contender in contenders.values():
            contender.close()
    return rounds


def return_difference() -> dict[str, float]:
    """Share by which the final reward of ours is above that of RLlib as shipped, with its interval."""
    found = []
    for name in ("ppo_ours", "ppo_shipped"):
        print(f"final returns of {name}, {SEEDS} seeds of {FINAL_STEPS:,} steps", file=sys.stderr, flush=True)
        answer, _ = _process(["returns", name], 1).communicate()
        found.append(np.array(json.loads(answer)))
    differences = (found[0] - found[1]) / found[1].mean()
    half = float(student.ppf(0.975, SEEDS - 1) * differences.std(ddof=1) / np.sqrt(SEEDS))
    mean = float(differences.mean())
    return {
        "return_difference_share": mean,
        "return_difference_share_low": mean - half,
        "return_difference_share_high": mean + half,
        "final_reward_ours": float(found[0].mean()),
        "final_reward_shipped": float(found[1].mean()),
    }


def main() -> None:
    """Measures everything and prints all figures."""
    rounds = speeds(ONE_CORE, 1)
    if len(os.sched_getaffinity(0)) > 1:
        rounds |= speeds(TWO_CORES, 2)
    figures = {}
    for name, ours, other in (
        ("ppo_vs_sb3", "ppo_ours", "ppo_sb3"),
        ("ppo_vs_sb3_two_cores", "ppo_ours_two_cores", "ppo_sb3_two_cores"),
        ("dqn_vs_shipped", "dqn_ours", "dqn_shipped"),
        ("ppo_vs_shipped", "ppo_ours", "ppo_shipped"),
    ):
        if ours in rounds:
            figures[name] = median(a / b for a, b in zip(rounds[ours], rounds[other], strict=True))
    figures |= return_difference()
    figures |= {f"{name}_per_s": median(values) for name, values in rounds.items()}
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    save_json(Path("results/train_speed.json"), {**figures, **machine, "load_average": os.getloadavg()[0]})
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if abs(value) < 10 else f"{name}: {value:.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"contend": contend, "returns": final_returns}[sys.argv[1]](sys.argv[2])
    else:
        main()
