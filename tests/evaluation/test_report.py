import io

import polars as pl
import pytest

from envs.users.ablation import EvolutionGain
from evaluation.fidelity.report import survival_sentence
from evaluation.report import (
    PLAIN_WIDTH,
    changed_sentence,
    comparison_table,
    likelihood_table,
    make_console,
    parameter_table,
    print_figures,
)
from evaluation.summary import initial_name


def printed(table):
    """The table's text where there is no terminal."""
    file = io.StringIO()
    make_console(file).print(table)
    text = file.getvalue()
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= PLAIN_WIDTH
    return text


def summary_of(rows, num_seeds=1):
    schema = {"agent": pl.String, "role": pl.String, "untrained": pl.Boolean, "metric": pl.String, "versus": pl.String}
    numbers = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    table = pl.DataFrame(rows, schema={**schema, **numbers}, orient="row")
    return table.with_columns(num_users=pl.lit(50), num_seeds=pl.lit(num_seeds))


ROWS = [
    ("mf", "baseline", False, "reward", None, 2.0, 1.5, 2.5),
    ("mf", "baseline", False, "engagement", None, 1.0, 0.8, 1.2),
    ("ppo", "learner", True, "reward", None, 3.0, 2.5, 3.5),
    ("ppo", "learner", True, "reward", "mf", 1.0, 0.75, 1.25),
    (initial_name("ppo"), "initial", False, "reward", None, 1.0, 0.5, 1.5),
    ("oracle_lookahead", "oracle", False, "reward", None, 9.0, 8.5, 9.5),
]


def row_of(text, agent):
    return next(line for line in text.splitlines() if line.strip("│ ").startswith(agent))


def test_the_comparison_shows_figures_intervals_and_marks():
    text = printed(comparison_table(summary_of(ROWS)))
    assert "2.00 ± 0.50" in row_of(text, "mf") and "1.00 ± 0.20" in row_of(text, "mf")
    assert "+1.00 ± 0.25" in row_of(text, "ppo") and "UNTRAINED" in row_of(text, "ppo")
    assert "before training" in row_of(text, "ppo (initial)")
    assert "oracle" in row_of(text, "oracle_lookahead").split("│")[-2]
    assert "single training seed" in text.replace("\n", " ") and "50 users" in text


def test_agents_stand_by_reward_with_their_beginnings_below():
    text = printed(comparison_table(summary_of(ROWS)))
    places = [text.index(f"│ {agent} ") for agent in ("oracle_lookahead", "ppo", initial_name("ppo"), "mf")]
    assert places == sorted(places)


def test_the_normalised_reward_takes_the_place_of_the_raw_one():
    scaled = [*ROWS, ("mf", "baseline", False, "normalised_reward", None, 0.25, 0.2, 0.3)]
    text = printed(comparison_table(summary_of(scaled)))
    assert "0.250 ± 0.050" in row_of(text, "mf") and "2.00 ± 0.50" not in text
    assert "reward is raw" in printed(comparison_table(summary_of(ROWS))).lower()


def test_several_seeds_are_told():
    text = printed(comparison_table(summary_of(ROWS, num_seeds=3))).replace("\n", " ")
    assert "3 training seeds" in text and "single" not in text


def test_without_the_reference_there_is_no_column_of_differences():
    assert "minus" not in printed(comparison_table(summary_of(ROWS), reference="popular"))


def test_parameters_tell_fitted_from_assumed_and_keep_brackets():
    rows = [
        {
            "name": "short_decay",
            "symbol": "λ",
            "value": 0.67,
            "low": 0.6,
            "high": 0.7,
            "source": "fitted",
            "note": "in [0, 1)",
        },
        {
            "name": "leave_miss",
            "symbol": "",
            "value": -3.0,
            "low": None,
            "high": None,
            "source": "assumed",
            "note": "[bold]",
        },
        {
            "name": "phi",
            "symbol": "φ",
            "value": None,
            "low": None,
            "high": None,
            "source": "fitted",
            "note": "long " * 60,
        },
    ]
    text = printed(parameter_table(rows))
    assert "0.6 to 0.7" in row_of(text, "short_decay") and "in [0, 1)" in text and "[bold]" in text
    assert "assumed" in row_of(text, "leave_miss") and "None" not in text


def test_likelihoods_leave_blank_what_is_missing():
    text = printed(
        likelihood_table({"popularity": {"masked": 6.83}, "evolving": {"masked": 5.85, "masked_half_width": 0.02}})
    )
    assert "6.830" in row_of(text, "popularity") and "5.850 ± 0.020" in row_of(text, "evolving")
    assert "None" not in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123456789, "0.123457"), (3, "3"), (1_234_567, "1234567"), (None, "null"), ("mf", "mf")]
)
def test_figures_are_bare_lines(value, shown):
    file = io.StringIO()
    print_figures({"name": value}, file)
    assert file.getvalue() == f"name: {shown}\n"


def test_only_what_survives_the_shuffle_is_called_evolving_interest():
    gain = EvolutionGain(
        nll=6.5, nll_shuffled=6.5, as_logged=(0.9, 0.8, 1.0), shuffled=(0.7, 0.6, 0.8), lost=(0.2, 0.15, 0.25)
    )
    told = survival_sentence(gain)
    assert "evolution buys 0.900 (0.800 to 1.000) nats an event as logged and 0.700 (0.600 to 0.800) with" in told
    assert (
        "0.200 (0.150 to 0.250) do not survive. Only what survives the shuffle may be called evolving interest" in told
    )


def test_conclusions_that_user_models_change_are_named():
    row = {"agent": "mmr", "versus": "mf", "value": 1.0, "low": 0.2, "high": 1.8, "low_after": -0.5, "high_after": 2.5}
    told = changed_sentence(pl.DataFrame([row]), 5)
    assert "5 user models" in told
    assert told.endswith("Decided otherwise for it: mmr minus mf (0.20 to 1.80 without it, -0.50 to 2.50 with it).")
    assert changed_sentence(pl.DataFrame([row]).clear(), 5).endswith(
        "No paired difference in reward is decided otherwise for it."
    )
