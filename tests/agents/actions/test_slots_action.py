import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

from agents.actions import SlateAction, SlotsAction
from agents.actions.ranker_scores import RankerScores
from envs.errors import ConfigurationError

SLOTS = 4
MODES = list(AutoresetMode)


def allowed_picks(env, rows, random):
    """A candidate of each row that is not masked, or any where all are."""
    mask = env.layout.parts(rows).mask
    return np.where(mask == 1, random.random(mask.shape), -1).argmax(axis=1)


def empty_row(env):
    row = np.zeros(env.layout.width, np.float32)
    parts = env.layout.parts(row)
    for part in (parts.history, parts.items, parts.slate):
        part[:] = -1
    return row


@pytest.mark.parametrize("mode", MODES)
def test_slot_by_slot_is_the_same_as_in_one_go(make_env, two_rankers, mode):
    """The same picks bring the same rewards, ends, requests and infos, bit for bit, in all three autoreset modes."""
    slots, slate = (kind(make_env(mode=mode), RankerScores(two_rankers)) for kind in (SlotsAction, SlateAction))
    rows, whole = slots.reset(seed=4)[0], slate.reset(seed=4)[0]
    random, ends = np.random.default_rng(0), 0
    for _ in range(60):
        picks = []
        for slot in range(SLOTS):
            # masked picks and repeats among them
            picks.append(random.integers(20, size=12) if random.random() < 0.3 else allowed_picks(slots, rows, random))
            rows, *outcome, info = slots.step(picks[-1])
            if slot < SLOTS - 1:
                assert all((part == 0).all() for part in outcome)
                assert set(info) == {"active"}
        whole, *expected, expected_info = slate.step(np.stack(picks, axis=1))
        for left, right in zip(outcome, expected, strict=True):
            assert_array_equal(left, right)
        assert info.keys() == expected_info.keys()
        for name, array in info.items():
            if name == "final_obs":
                assert_array_equal(array[:, : whole.shape[1]], expected_info[name])
                assert (array[info["_final_obs"], whole.shape[1] :] == -1).all()
            else:
                assert_array_equal(array, expected_info[name], err_msg=name)
        assert_array_equal(rows[:, : whole.shape[1]], whole)
        assert (rows[:, whole.shape[1] :] == -1).all()
        ended = expected[1] | expected[2]
        ends += ended.sum()
        if mode == AutoresetMode.DISABLED and ended.any():
            rows, whole = (env.reset(options={"reset_mask": ended})[0] for env in (slots, slate))
    assert ends


def test_rows_tell_what_was_chosen_and_nothing_else_changes(make_env):
    env = SlotsAction(make_env())
    rows, _ = env.reset(seed=1)
    first, random = rows.copy(), np.random.default_rng(0)
    chosen = []
    for slot in range(SLOTS - 1):
        chosen.append(allowed_picks(env, rows, random))
        handed_out, before = rows, rows.copy()
        rows, *_ = env.step(chosen[-1])
        assert_array_equal(handed_out, before)  # learners keep rows
        now, then = env.layout.parts(rows), env.layout.parts(first)
        for name in ("context", "user", "history", "history_days", "items", "columns"):
            assert_array_equal(getattr(now, name), getattr(then, name))
        expected = then.mask.copy()
        for picks in chosen:
            expected[np.arange(12), picks] = 0
        assert_array_equal(now.mask, expected)
        assert_array_equal(now.slate[:, : slot + 1], np.stack(chosen, axis=1))
        assert (now.slate[:, slot + 1 :] == -1).all()


def test_who_keeps_to_the_mask_shows_full_slates_of_different_items(make_env):
    env = SlotsAction(make_env())
    rows, _ = env.reset(seed=1)
    random = np.random.default_rng(0)
    for _ in range(40 * SLOTS):
        rows, *_, info = env.step(allowed_picks(env, rows, random))
        if "slate_items" in info:
            assert (info["empty_slots"][info["active"]] == 0).all()
            for slate in info["slate_items"][info["active"]]:
                assert len(set(slate.tolist())) == SLOTS


def test_with_next_step_autoreset_a_new_user_waits_for_its_first_request(make_env):
    """One step resets, K - 1 find an empty row; none of them is active, and the life that follows is as with any other mode."""
    env = SlotsAction(make_env(mode=AutoresetMode.NEXT_STEP))
    rows, _ = env.reset(seed=1)
    random = np.random.default_rng(0)
    for _ in range(200):
        for _ in range(SLOTS):
            rows, _, terminated, truncated, _ = env.step(allowed_picks(env, rows, random))
        ended = terminated | truncated
        if ended.any():
            break
    assert (env.layout.parts(rows).items[ended] >= 0).any()  # the final request
    for slot in range(SLOTS):
        rows, rewards, terminated, truncated, info = env.step(allowed_picks(env, rows, random))
        assert_array_equal(info["active"], ~ended)
        assert (rewards[ended] == 0).all()
        assert not (terminated | truncated)[ended].any()
        if slot < SLOTS - 1:
            assert_array_equal(rows[ended], np.tile(empty_row(env), (ended.sum(), 1)))
    parts = env.layout.parts(rows)
    assert (parts.context[ended, 2] == 0).all() and (parts.mask[ended].sum(axis=1) > 0).all()
    _, _, _, _, info = env.step(allowed_picks(env, rows, random))
    assert info["active"][ended].all()


def test_one_slot_needs_no_waiting(make_env):
    slots, slate = (kind(make_env(slate_size=1)) for kind in (SlotsAction, SlateAction))
    rows, _ = slots.reset(seed=1)
    slate.reset(seed=1)
    random = np.random.default_rng(0)
    for _ in range(60):
        picks = allowed_picks(slots, rows, random)
        rows, *found, _ = slots.step(picks)
        whole, *expected, _ = slate.step(picks[:, None])
        assert_array_equal(rows[:, :-1], whole)
        for left, right in zip(found, expected, strict=True):
            assert_array_equal(left, right)


def test_what_is_wrong_is_said(make_env):
    env = SlotsAction(make_env(mode=AutoresetMode.DISABLED))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(12, int))
    env.reset(seed=0)
    for actions in (np.full(12, 20), np.full(12, -1), np.zeros((12, 4), int)):
        with pytest.raises(ConfigurationError, match="indices into the candidates, 0 to 19"):
            env.step(actions)
    env.step(np.zeros(12, int))
    with pytest.raises(ConfigurationError, match="1 of 4 slots"):
        env.reset(options={"reset_mask": np.arange(12) == 3})
    rows, _ = env.reset(seed=0)
    assert (env.layout.parts(rows).slate == -1).all()
