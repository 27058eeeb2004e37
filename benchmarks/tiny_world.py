"""Whether agents find what is best in a world that is solved exactly.

Run: python -m benchmarks.tiny_world [AGENTS] [SEEDS]     (all agents below and 3 training seeds, unless told otherwise)

An agent that plans is measured by the value of its greedy policy, from the plan and not by simulation, over that of the best
policy within its own action space; the figure is the smallest of the seeds'. A bandit does not plan: it is measured by the reward
of its requests over what the best slates for the same requests would earn, and its lives' value over that of the myopic optimum
is told beside it (`life_share`). `gaussian_share_<deviation>` is what the best policy on weights that explores by a Gaussian of
that deviation is worth when it is served without; `climbed_share_<deviation>` where one gets by gradient ascent without noise that
begins at this deviation and ends at 0.05. Writes results/tiny_world.json after each agent; runs of other agents that the file has
are kept if they are of as many seeds, so that single agents can be measured again. See docs/tiny-world.md.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent
from agents.loading import resolve_agent
from envs.artefacts import load_json, save_json
from envs.errors import ConfigurationError
from evaluation.tiny import (
    Plan,
    best_while_exploring,
    climbed,
    reachable_by_blend,
    reachable_by_presets,
    reachable_by_weights,
    tiny_training,
    tiny_world,
)

RESULTS = Path("results/tiny_world.json")
SLATE_SIZE = 2
DEVIATIONS = (1.0, 0.5, 0.3, 0.15, 0.05)
"""Standard deviations of exploration, in units of half the box; agents that set weights begin at 0.5 by default."""
LAST_DEVIATION = 0.05
"""Where a deviation that shrinks ends here."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An agent, and how it is trained here."""

    space: str
    """Its action space: 'weights', 'presets', 'blend' or 'slate'; 'myopic' for a bandit."""
    requests: int
    """Budget."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings other than the agent's own."""
    spec: str = ""
    """Of the agent, where it goes by another name here."""


NARROWING: Mapping[str, Any] = {
    "initial_log_std": -1.2,
    "final_log_std": -3.0,
    "gamma": 0.9,
    "learning_rate": 3e-3,
    "batch": 8192,
    "minibatch": 1024,
    "epochs": 10,
    "clip": 0.3,
}
"""Exploration by a Gaussian that begins at a deviation of 0.3 and ends at 0.05. Wider ones settle on what is best among wide
ones and stay there when they narrow down (`climbed_share`); a narrow one has little signal in each request, hence large batches
and a short horizon. Chosen on a copy of PPO that draws from the plan's own probabilities, with seeds 1 and 2 of its own."""

CONTENDERS: dict[str, Contender] = {
    "dqn": Contender(space="presets", requests=40_000),
    "ppo": Contender(space="weights", requests=400_000, options=NARROWING),
    "ppo_preference": Contender(
        space="weights", requests=400_000, options={**NARROWING, "num_envs": 1024, "gae_lambda": 0.2}
    ),
    "sb3_dqn": Contender(
        space="presets",
        requests=40_000,
        options={
            "num_envs": 64,
            "minibatch": 256,
            "learning_rate": 2e-3,
            "target_every": 500,
            "further": {"n_steps": 3},
        },
        spec="sb3:DQN",
    ),
    "sb3_ppo": Contender(space="weights", requests=400_000, options={"initial_log_std": 0.0}),
    "ppo_slate": Contender(
        space="slate",
        requests=60_000,
        options={
            "rankers": (),
            "sharpness": 0.5,
            "entropy": 0.05,
            "final_entropy": 0.0,
            "learning_rate": 3e-3,
            "batch": 1024,
            "minibatch": 256,
        },
    ),
    "dqn_slots": Contender(
        space="slate",
        requests=100_000,
        options={
            "rankers": (),
            "num_envs": 128,
            "minibatch": 512,
            "learning_rate": 2e-3,
            "n_step": SLATE_SIZE,
        },
    ),
    "slateq": Contender(
        space="slate",
        requests=10_000,
        options={
            "rankers": (),
            "num_envs": 32,
            "minibatch": 256,
            "learning_rate": 2e-3,
            "target_every": 500,
            # there is no ranker to begin from
            "warm_up_share": 0.1,
            "epsilon_start": 1.0,
            "epsilon_end": 0.1,
            "n_step": 1,
        },
    ),
    "marwil": Contender(
        space="slate",
        requests=100_000,
        options={
            "rankers": (),
            "behaviour": "random",
            "sharpness": 0.5,
            "num_envs": 128,
            "entropy": 0.03,
            "final_entropy": 0.0,
            "learning_rate": 2e-3,
            "batch": 2048,
            "minibatch": 256,
        },
    ),
    "ppo_blend": Contender(
        space="blend",
        requests=800_000,
        options={
            "rankers": ("sasrec", "gbdt"),
            "num_envs": 512,
            "initial_log_std": -0.5,
            "final_log_std": -2.0,
            "gamma": 0.9,
            "gae_lambda": 0.2,
            "learning_rate": 2e-3,
            "batch": 2048,
            "minibatch": 512,
            "epochs": 3,
        },
    ),
    "linucb": Contender(space="myopic", requests=10_000, options={"rankers": ()}),
    "thompson": Contender(space="myopic", requests=10_000, options={"rankers": ()}),
}
"""The agents that are asked. Those that set weights explore by a Gaussian over a box where good slates have little room, so that
they need many requests. `ppo_slate` untrained is the order of the recall scores, the baits first: by default (`sharpness` 3) it
shows hardly anything else, and is found at 0.46 after 100,000 requests; here it begins close to random, with an entropy bonus
that fades; chosen with seeds 101 and 102. `ppo_blend` has more room (4 in 1,000 weights at the least make the best slate of a
state), but far from where it begins, and so explores more widely than `ppo`. What is left to gain at last is a tenth of a request's
reward in a state, which one batch does not tell from noise: hence many small updates, which average, and advantages that bootstrap
after a request or two. Chosen on a copy of PPO that draws from the plan's probabilities, with rankers fitted with seeds 10 to 13;
`ppo_preference` likewise, with seeds 12 and 13. `dqn_slots`, `slateq` and
`sb3_dqn` take more gradient steps a request than they do by default, being given few requests for so small a network; chosen with
seeds 101 and 102. `marwil` learns from 10,000 requests that were answered at random, then by PPO; chosen with seeds 10 and 11."""


def measured(name: str, seed: int) -> dict[str, float]:
    """Figures of one agent trained with one seed.

    Raises:
        AgentError: if there is no such agent.
    """
    contender, plan, world = CONTENDERS[name], Plan.of(slate_size=SLATE_SIZE), tiny_world()
    kind: Any = resolve_agent(contender.spec or name)
    agent = kind(slate_size=SLATE_SIZE, seed=seed, options=kind.options_class(**contender.options))
    begin = time.perf_counter()
    agent.fit(world.policy_log, tiny_training(contender.requests, seed, slate_size=SLATE_SIZE))
    figures = {"seconds": time.perf_counter() - begin}
    policy = plan.policy_of(agent)
    if contender.space == "myopic":
        shares = [plan.one_step_share(own) for own in policy]
        life = plan.value(policy) / plan.value(plan.myopic_policy())
        return {"value_share": float(np.mean(shares)), "life_share": life} | figures
    best = plan.value(plan.best_policy(within(contender.space, plan, agent)))
    return {"value_share": plan.value(policy) / best} | figures


def within(space: str, plan: Plan, agent: Agent) -> NDArray[np.bool_] | None:
    """Slates [L] or [I, L] within reach of an action space; None for all."""
    if space == "blend":
        blend: Any = agent
        return reachable_by_blend(plan, blend.blend_.rankers)
    if space == "slate":
        return None
    return reachable_by_presets(plan) if space == "presets" else reachable_by_weights(plan)


def kept_runs(path: Path, seeds: int) -> dict[str, list[dict[str, float]]]:
    """Runs by agent that a file of results has, if they are of so many seeds; none without such a file.

    Raises:
        ArtefactError: if the file is damaged.
    """
    before = load_json(path) if path.exists() else {}
    return dict(before["runs"]) if before.get("seeds") == seeds else {}


def smallest(runs: Mapping[str, list[dict[str, float]]]) -> dict[str, float]:
    """The smallest of the seeds' figures, `<figure>_<agent>`."""
    return {
        f"{figure}_{name}": min(run[figure] for run in own)
        for name, own in runs.items()
        for figure in own[0].keys() - {"seconds"}
    }


def main() -> None:
    """Trains, prints the figures and writes them."""
    names = sys.argv[1].split(",") if len(sys.argv) > 1 else list(CONTENDERS)
    seeds = range(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise ConfigurationError(f"there is no '{unknown[0]}' here; known are {', '.join(CONTENDERS)}.")
    plan = Plan.of(slate_size=SLATE_SIZE)
    figures: dict[str, float] = {"myopic_over_plan": plan.value(plan.myopic_policy()) / plan.value(plan.best_policy())}
    best = plan.value(plan.best_policy(reachable_by_weights(plan)))
    for deviation in DEVIATIONS:
        figures[f"gaussian_share_{deviation}"] = plan.value(best_while_exploring(plan, deviation)) / best
        figures[f"climbed_share_{deviation}"] = plan.value(climbed(plan, deviation, LAST_DEVIATION)) / best
    runs = kept_runs(RESULTS, len(seeds))
    for name in names:
        runs[name] = []
        for seed in seeds:
            runs[name].append(measured(name, seed))
            print(f"{name}, seed {seed}: {runs[name][-1]}", file=sys.stderr, flush=True)
        save_json(RESULTS, {**figures, **smallest(runs), "seeds": len(seeds), "runs": runs})
    figures |= smallest({name: runs[name] for name in names})
    for figure, value in sorted(figures.items()):
        print(f"{figure}: {value:.4f}")


if __name__ == "__main__":
    main()
