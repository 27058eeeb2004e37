"""SlateQ's decomposition equals going through all slates, and its loss the plain loop."""

from itertools import permutations
from math import exp

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import TD_ERROR_KEY

from agents.actions import SlateAction
from agents.rl.dqn import dqn_config
from agents.rl.plackett_luce import MASKED
from agents.rl.rllib import local_algorithm
from agents.rl.scorer import ItemTable
from agents.rl.slateq import ClickEnvRunner, SlateQLearner, SlateQModule, SlateQOptions, best_slates, slate_values
from envs.slate_env import SlateVectorEnv

CANDIDATES, SLOTS = 6, 3
ALL = torch.tensor(list(permutations(range(CANDIDATES), SLOTS)))


def plain_value(attractions, outside, positions, values, slate):
    """The sum over what can be consumed, written out, of lists of numbers."""
    odds = [
        0.0 if attractions[place] == MASKED else exp(attractions[place] + positions[slot])
        for slot, place in enumerate(slate)
    ]
    none = exp(outside)
    gained = sum(each * values[place] for each, place in zip(odds, slate, strict=True))
    return (none * values[-1] + gained) / (none + sum(odds))


def allowed_slates(attractions, slots):
    """All slates of candidates that are not masked; where these are too few, all that hold each of them."""
    shown = {place for place, attraction in enumerate(attractions) if attraction != MASKED}
    least = min(slots, len(shown))
    return [slate for slate in permutations(range(len(attractions)), slots) if len(shown & set(slate)) >= least]


@given(seed=st.integers(0, 10_000), masked=st.integers(0, 2), spread=st.sampled_from([0.1, 1.0, 4.0]))
@settings(deadline=None, max_examples=40)
def test_the_decomposition_equals_all_slates(seed, masked, spread):
    random = torch.Generator().manual_seed(seed)
    attractions = spread * torch.randn((2, CANDIDATES), generator=random)
    attractions[:, :masked] = MASKED
    outside, positions = torch.randn(2, generator=random), torch.randn(SLOTS, generator=random)
    values = 5 * torch.randn((2, CANDIDATES + 1), generator=random)
    best = best_slates(attractions, outside, positions, values)
    found = slate_values(attractions, outside, positions, values, best)
    assert not (best < masked).any()
    for row in range(2):
        parts = (attractions[row].tolist(), float(outside[row]), positions.tolist(), values[row].tolist())
        each = [plain_value(*parts, slate) for slate in allowed_slates(parts[0], SLOTS)]
        one = [part[row : row + 1].expand(len(ALL), -1) for part in (attractions, values)]
        given = slate_values(one[0], outside[row].expand(len(ALL)), positions, one[1], ALL)
        everything = [plain_value(*parts, slate) for slate in ALL.tolist()]
        assert_allclose(given, everything, rtol=1e-4, atol=1e-4)
        assert_allclose(found[row], max(each), rtol=1e-4, atol=1e-4)


def test_where_too_little_is_allowed_all_of_it_is_shown():
    attractions = torch.randn((5, CANDIDATES), generator=torch.Generator().manual_seed(0))
    attractions[:, 2:] = MASKED
    values = torch.full((5, CANDIDATES + 1), -3.0)
    slates = best_slates(attractions, torch.zeros(5), torch.zeros(SLOTS), values)
    assert_array_equal(slates[:, :2].sort(dim=1).values, torch.tensor([[0, 1]] * 5))
    assert (slates[:, 2] >= 2).all()


def test_errors_are_those_of_a_plain_loop_over_what_was_clicked(world):
    """Targets of the worth of what was consumed, by n-step rewards and all slates of the next request."""
    env = SlateAction(SlateVectorEnv(16, world=world, slate_size=2, num_candidates=5, history_size=4))
    options = SlateQOptions(rankers=(), num_envs=16, minibatch=64, width=8, heads=2, n_step=2, iteration=64)
    model_config = {"layout": env.layout, "items": ItemTable.from_log(world.policy_log, 4)}
    with local_algorithm(
        dqn_config(options).learners(learner_class=SlateQLearner),
        make_env=lambda: env,
        env_runner=ClickEnvRunner,
        module=SlateQModule,
        model_config={**model_config, "options": options, "slots": 2},
        limit=640,
        options=options,
        seed=0,
    ) as algorithm:
        algorithm.train()
        learner = algorithm.learner_group._learner
        module = learner.module[DEFAULT_MODULE_ID]
        with torch.no_grad():
            for weight in module.parameters():
                weight += 0.3 * torch.randn_like(weight)
        (replay,) = algorithm.replays.values()
        drawn = replay.sample(100, 2, 0.9, np.random.default_rng(0))
        rows = {name: torch.from_numpy(column) for name, column in drawn.items()}
        learner.metrics.reduce()
        outputs = learner.forward(rows)
        loss = learner.compute_loss_for_module(
            module_id=DEFAULT_MODULE_ID, config=learner.config, batch=rows, fwd_out=outputs
        )
        errors = learner.metrics.peek((DEFAULT_MODULE_ID, TD_ERROR_KEY), compile=False)
        torch.testing.assert_close(learner.lean_loss(rows), loss)
        with torch.no_grad():
            policy, target = module.policy, module.target_values
            present, following = (policy.choice.read(rows[name]) for name in (Columns.OBS, Columns.NEXT_OBS))
            now, next_values, worth = policy.values(present), target(following), policy.values(following)
            attractions, outside = policy.choice(following)
            positions = policy.choice.positions.tolist()
    plain = []
    for row in range(100):
        parts, own = (attractions[row].tolist(), float(outside[row]), positions), worth[row].tolist()
        best = max(allowed_slates(parts[0], 2), key=lambda slate, parts=parts, own=own: plain_value(*parts, own, slate))
        bootstrap = plain_value(*parts, next_values[row].tolist(), best)
        slot = int(rows["clicked_slot"][row])
        value = now[row, -1] if slot < 0 else now[row, rows[Columns.ACTIONS][row, slot]]
        going = 0.0 if rows[Columns.TERMINATEDS][row] else 0.9 ** float(rows["n_step"][row])
        plain.append(abs(float(value) - float(rows[Columns.REWARDS][row]) - going * bootstrap))
    assert_allclose(np.concatenate([np.asarray(part) for part in errors]).ravel()[:100], plain, rtol=1e-3, atol=1e-4)
    clicked = rows["clicked_slot"] >= 0
    assert clicked.any() and (~clicked).any()
