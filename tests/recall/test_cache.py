import numpy as np
from numpy.testing import assert_array_equal

from recall.cache import MAX_PLACES, RowCache


def test_returns_what_was_kept_for_equal_inputs_only():
    cache = RowCache()
    users, inputs = np.array([4, 9, 2]), np.array([[1, 2], [3, 4], [5, 6]])
    assert not cache.look_up(users, [inputs])[0].any()
    cache.keep(users, [inputs], [10 * inputs])
    changed = inputs.copy()
    changed[1, 1] = 0
    found, outputs = cache.look_up(users, [changed])
    assert_array_equal(found, [True, False, True])
    assert_array_equal(outputs[0], 10 * inputs[[0, 2]])


def test_users_that_share_a_place_push_each_other_out():
    cache = RowCache()
    users, inputs = np.array([1, 1 + MAX_PLACES, 3]), np.arange(3)[:, None]
    cache.keep(users, [inputs], [inputs])
    found, outputs = cache.look_up(users, [inputs])
    assert_array_equal(found, [False, True, True])
    assert_array_equal(outputs[0], [[1], [2]])


def test_forgets_when_shapes_change_or_it_is_cleared():
    cache = RowCache()
    users = np.array([0])
    cache.keep(users, [np.zeros((1, 2))], [np.zeros((1, 2))])
    assert not cache.look_up(users, [np.zeros((1, 3))])[0].any()
    assert cache.look_up(users, [np.zeros((1, 2))])[0].all()
    cache.clear()
    assert not cache.look_up(users, [np.zeros((1, 2))])[0].any()
