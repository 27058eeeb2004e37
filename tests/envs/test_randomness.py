import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import stats

from envs.randomness import Purpose, draw_bits, draw_gumbel, draw_normal, draw_uniform


@given(seed=st.integers(0, 2**63 - 1), keys=st.lists(st.integers(-1, 2**40), min_size=1, max_size=30))
def test_a_draw_depends_on_its_own_key_alone(seed: int, keys: list[int]) -> None:
    together = draw_bits(seed, Purpose.CHOICE, np.array(keys)[:, None], np.arange(3))
    for row, key in enumerate(keys):
        assert_array_equal(together[row], draw_bits(seed, Purpose.CHOICE, key, np.arange(3)).reshape(-1))


def test_keys_in_another_place_or_for_another_purpose_give_other_draws() -> None:
    base = draw_bits(1, Purpose.CHOICE, 2, 3)
    others = [
        draw_bits(1, Purpose.CHOICE, 3, 2),
        draw_bits(2, Purpose.CHOICE, 2, 3),
        draw_bits(1, Purpose.LEAVE, 2, 3),
        draw_bits(1, Purpose.CHOICE, 2, 4),
    ]
    assert len({int(bits.reshape(-1)[0]) for bits in [base, *others]}) == 5


def test_draws_follow_their_distributions() -> None:
    users, items = np.arange(300)[:, None], np.arange(300)[None]
    uniform = draw_uniform(7, Purpose.CHOICE, users, items)
    assert uniform.min() > 0 and uniform.max() < 1
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(draw_gumbel(7, Purpose.CHOICE, users, items).ravel(), "gumbel_r").pvalue > 1e-3
    assert stats.kstest(draw_normal(7, Purpose.CHOICE, users, items).ravel(), "norm").pvalue > 1e-3


def test_neighbouring_keys_are_uncorrelated() -> None:
    draws = draw_uniform(3, Purpose.LEAVE, np.arange(400)[:, None], np.arange(400)[None]).astype(float)
    bound = 4 / np.sqrt(draws.size)
    for shifted, plain in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1])):
        assert abs(np.corrcoef(shifted.ravel(), plain.ravel())[0, 1]) < bound
    assert abs(np.corrcoef(draws.ravel(), draws.T.ravel())[0, 1]) < bound
