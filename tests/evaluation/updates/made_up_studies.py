"""Made-up results of a study of update policies: four policies, three seeds, four days, two scenarios."""

import numpy as np
import polars as pl

from evaluation.updates.summary import margins_table, points_table, summary_table

LUCK = {0: -0.1, 1: 0.0, 2: 0.1}
"""Of the seeds, met by all policies."""
EXTRA = {"never": 0.0, "every(2, full_retrain)": 0.5, "dqn": 0.7, "hindsight": 1.0}
"""Engagement beyond never's."""
COST = {"never": 0.0, "every(2, full_retrain)": 0.2, "dqn": 0.1, "hindsight": 0.1}
ROLES = {"never": "rule", "every(2, full_retrain)": "rule", "dqn": "rl", "hindsight": "reference"}
ACTIONS = {
    "never": (0, 0, 0, 0),
    "every(2, full_retrain)": (0, 0, 6, 0),
    "dqn": (0, 3, 4, 5),
    "hindsight": (0, 6, 6, 0),
}


def days(scale: float = 1.0) -> pl.DataFrame:
    """As a study has them; `scale` shrinks what hindsight and others gain in the second scenario."""
    rows = [
        {
            "scenario": scenario,
            "role": ROLES[policy],
            "policy": policy,
            "seed": seed,
            "day": day,
            "engagement": 1 + luck + EXTRA[policy] * (1 if scenario == "shock" else scale),
            "cost": COST[policy] * (1 if scenario == "shock" else scale),
            "action": ACTIONS[policy][day],
            "trained_samples": 10,
            "work": 100,
            "seconds": 0.1,
        }
        for scenario in ("shock", "stationary")
        for policy in EXTRA
        for seed, luck in LUCK.items()
        for day in range(4)
    ]
    return pl.DataFrame(rows).with_columns(reward=pl.col("engagement") - pl.col("cost"))


def margins(table: pl.DataFrame) -> pl.DataFrame:
    """Of dqn in both scenarios, and once more as if it had never met the second."""
    met = margins_table(table, {"shock": "dqn", "stationary": "dqn"}).with_columns(trained_on=pl.lit(""))
    unmet = met.filter(pl.col("scenario") == "stationary").with_columns(trained_on=pl.lit("shock"))
    return pl.concat([met, unmet])


def importances() -> pl.DataFrame:
    """Two fields of two scenarios."""
    columns = {
        f"{kind}{end}": value for kind, value in (("changed", 0.4), ("flipped", 0.2)) for end in ("", "_low", "_high")
    }
    return pl.DataFrame(
        [
            {"scenario": scenario, "policy": "dqn", "field": field} | columns
            for scenario in ("shock", "stationary")
            for field in ("engagement", "weekday")
        ]
    )


def decay() -> pl.DataFrame:
    """Curves of two models in two scenarios."""
    return pl.DataFrame(
        [
            {
                "scenario": scenario,
                "model": model,
                "day": day,
                "metric": metric,
                "value": 1 / day,
                "low": 0.9 / day,
                "high": 1.1 / day,
            }
            for scenario in ("shock", "stationary")
            for model in ("logistic", "din")
            for metric in ("engagement", "recall_100", "ndcg_10", "calibration_error")
            for day in range(1, 31)
        ]
    )


def learning() -> pl.DataFrame:
    """A curve for each scenario."""
    return pl.DataFrame(
        {
            "scenario": np.repeat(["shock", "stationary"], 3),
            "agent": "dqn",
            "training_seed": 0,
            "requests": [60.0, 120.0, 180.0] * 2,
            "reward": [0.0, 0.1, 0.2] * 2,
        }
    )


def monitoring() -> pl.DataFrame:
    """Two versions in two scenarios; nothing is predicted on the first day."""
    days = np.arange(6)
    own = {
        name: np.where(days > 0, 0.01 * days, np.nan) for name in ("calibration_error", "score_psi", "newborn_share")
    }
    own |= {
        "ctr": 0.1 + 0.01 * days,
        "ctr_low": 0.05 + 0.01 * days,
        "ctr_high": 0.2 + 0.01 * days,
        "engagement": 0.1 * days,
    }
    table = pl.DataFrame({"day": days, "policy_version": ["0.0"] * 3 + ["0.1"] * 3, "requests": [40] * 6, **own})
    keys = [
        [pl.lit(name).alias("scenario"), pl.lit("every(3, update_both)").alias("policy")]
        for name in ("shock", "stationary")
    ]
    return pl.concat([table.select(*key, pl.all()) for key in keys])


def tables() -> dict[str, pl.DataFrame]:
    """What a run folder has for plots."""
    table = days(0.0)
    return {
        "updates": table,
        "updates_points": points_table(table),
        "updates_summary": summary_table(table),
        "updates_margins": margins(table),
        "updates_importance": importances(),
        "updates_decay": decay(),
        "updates_learning": learning(),
        "updates_monitoring": monitoring(),
    }
