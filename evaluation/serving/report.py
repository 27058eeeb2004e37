"""What a person reads of pipelines against simulated users: tables, the answer in a sentence, flat figures."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.table import Table

from evaluation.serving.config import CONTROL, LOG, TRAININGS, reward_metric
from evaluation.serving.correlation import RankCorrelation
from evaluation.serving.feedback import LOOP_MEASURES
from evaluation.serving.study import REFERENCE, WITHIN
from evaluation.statistics import Estimate, Measured

HEADLINE = {"training": LOG, "outcome": "reward", "among": "all", "measure": "spearman"}
"""Which of the rank correlations is printed as `offline_vs_simulated_rank_correlation`, under the first user model."""
_AMONG = {"all": "", WITHIN: ", within rankers"}
_TRAINING_NAMES = dict(zip(TRAININGS, ("log", "log and events"), strict=True))


def serving_tables(serving: pl.DataFrame) -> list[Table]:
    """One table for each user model and training: a row for each pipeline, the best reward first."""
    tables = []
    for (model, training), own in serving.group_by("user_model", "training", maintain_order=True):
        reward = reward_metric(own)
        columns = {reward: 3, "engagement": 2, "diversity": 3, "freshness": 3, "coverage": 3, "ndcg10": 4}
        headings = [
            reward.replace("normalised_reward", "reward, normalised"),
            *list(columns)[1:],
            f"reward minus {REFERENCE}",
        ]
        table = Table(
            "pipeline", *headings, title=f"{model} users, rankers trained on {_TRAINING_NAMES[str(training)]}"
        )
        values = {
            (row["ranker"], row["reranker"], row["metric"], row["versus"] is not None): row
            for row in own.iter_rows(named=True)
        }
        pairs = own.filter((pl.col("metric") == reward) & pl.col("versus").is_null()).sort("value", descending=True)
        for ranker, reranker in pairs.select("ranker", "reranker").iter_rows():
            cells = [_told(values.get((ranker, reranker, metric, False)), places) for metric, places in columns.items()]
            difference = _told(values.get((ranker, reranker, "reward", True)), 2, sign=True)
            name = ranker if reranker is None else f"{ranker}+{reranker}"
            table.add_row(name, *cells, difference, style="dim" if reranker is None else "")
        tables.append(table)
    if tables:
        tables[-1].caption = (
            "± 95 % intervals over users; differences are paired on them, in the reward's raw unit. ndcg10: of the slate for "
            "each user's held-out row. random and oracle_lookahead are the ends of the scale; the oracle sees the hidden state."
        )
    return tables


def _told(row: Mapping[str, Any] | None, places: int, sign: bool = False) -> str:
    if row is None or row["value"] is None:
        return "–"
    text = f"{row['value']:{'+' if sign else ''}.{places}f}"
    return text if row["low"] is None else f"{text} ± {(row['high'] - row['low']) / 2:.{places}f}"


def correlation_table(correlations: pl.DataFrame) -> Table:
    """Spearman's and Kendall's correlation of the offline measure with what came of it."""
    table = Table("users", "rankers trained on", "outcome", "pipelines", "Spearman", "with other rankers", "Kendall")
    table.title = "Does the offline measure (NDCG@10 of the slate) foretell the simulated outcome?"
    keys = ["user_model", "training", "outcome", "among"]
    for (model, training, outcome, among), own in correlations.group_by(keys, maintain_order=True):
        rows = {row["measure"]: row for row in own.iter_rows(named=True)}
        rho, tau = rows["spearman"], rows["kendall"]
        table.add_row(
            str(model),
            _TRAINING_NAMES[str(training)],
            str(outcome),
            f"{rho['pipelines']}" + _AMONG.get(str(among), f", {among} only"),
            _interval(rho),
            _ends(rho["low_rankers"], rho["high_rankers"]),
            _interval(tau),
        )
    table.caption = (
        "95 % intervals: users drawn anew; 'with other rankers': users and rankers drawn anew. Within rankers: less the mean of "
        "the pipelines of the same ranker, so that only re-rankers are told apart."
    )
    return table


def _interval(row: Mapping[str, Any]) -> str:
    value = row["value"]
    return f"{value:+.2f} {_ends(row['low'], row['high'])}" if value == value else "–"


def _ends(low: float, high: float) -> str:
    return f"({low:+.2f}, {high:+.2f})" if low == low else "–"


def headline(correlations: pl.DataFrame) -> RankCorrelation:
    """The rank correlation that is printed: over all pipelines trained on the log, of their reward, by Spearman."""
    own = correlations.filter(pl.all_horizontal(pl.col(name) == value for name, value in HEADLINE.items()))
    row = own.row(0, named=True)
    return RankCorrelation(**{name: row[name] for name in RankCorrelation.__dataclass_fields__})


def answer(correlations: pl.DataFrame) -> str:
    """Whether the offline measure foretells the outcome, as a sentence; with a warning where the design is small."""
    found = headline(correlations)
    warning = found.warning()
    if warning and found.value != found.value:
        return warning
    if found.low_rankers > 0:
        told = "Pipelines that are better offline serve better"
    elif found.low > 0:
        told = "Of these rankers the better offline serve better, but other rankers might not"
    elif found.high < 0:
        told = "Pipelines that are better offline serve worse"
    else:
        told = "The offline measure does not tell which pipelines serve better"
    sentence = f"{told}: rank correlation {found.value:+.2f} ({found.low:+.2f}, {found.high:+.2f})."
    return f"{sentence} {warning}".strip()


def loop_estimates(rounds: pl.DataFrame) -> pl.DataFrame:
    """ranker, round, measure, versus, value, low, high: means over seeds with t intervals; `versus` is null for the measure itself,
    'round 0' for the paired change since before the loop, and the control's name for that change less the control's."""
    rows: list[dict[str, Any]] = []
    wide = {
        (ranker, measure): own.pivot(on="round", index="seed", values=measure).sort("seed").drop("seed").to_numpy()
        for (ranker,), own in rounds.group_by("ranker", maintain_order=True)
        for measure in LOOP_MEASURES
    }
    for (ranker, measure), values in wide.items():
        changed = values - values[:, :1]
        told = {None: values, "round 0": changed}
        if ranker != CONTROL and (CONTROL, measure) in wide:
            control = wide[CONTROL, measure]
            told[CONTROL] = changed - (control - control[:, :1])
        for versus, table in told.items():
            for number in range(table.shape[1]):
                estimate: Estimate = Measured.mean(table[:, number]).estimate()
                ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                rows.append({"ranker": ranker, "round": number, "measure": measure, "versus": versus, **ends})
    schema = {"ranker": pl.String, "round": pl.Int64, "measure": pl.String, "versus": pl.String}
    return pl.DataFrame(rows, schema={**schema, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64})


def loop_table(rounds: pl.DataFrame) -> Table:
    """What the loop changed: before it, after the last round, and the paired change."""
    estimates, last = loop_estimates(rounds), rounds["round"].to_numpy().max()
    table = Table(
        "ranker",
        *LOOP_MEASURES,
        title=f"Feedback loop: before it → after {last} times learning from one's own traffic",
    )
    for ranker in rounds["ranker"].unique(maintain_order=True):
        own = estimates.filter(pl.col("ranker") == ranker)
        cells = []
        for measure in LOOP_MEASURES:
            of = own.filter(pl.col("measure") == measure)
            begin, end = (
                of.filter((pl.col("round") == number) & pl.col("versus").is_null())["value"][0] for number in (0, last)
            )
            change = of.filter((pl.col("round") == last) & (pl.col("versus") == "round 0")).row(0, named=True)
            cells.append(f"{begin:.3f} → {end:.3f} {_ends(change['low'], change['high'])}")
        table.add_row(ranker, *cells)
    table.caption = "In brackets: 95 % interval of the change, over seeds of the loop."
    return table


def serving_figures(serving: pl.DataFrame, correlations: pl.DataFrame, rounds: pl.DataFrame) -> dict[str, float]:
    """Flat figures: `offline_vs_simulated_rank_correlation` with _low and _high, all others of its kind by their full name, the
    greedy pipelines' outcomes, and what the loop changed."""
    figures: dict[str, float] = {}
    found = headline(correlations)
    name = "offline_vs_simulated_rank_correlation"
    figures |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    figures |= {f"{name}_rankers_low": found.low_rankers, f"{name}_rankers_high": found.high_rankers}
    figures |= {f"{name}_pipelines": found.pipelines, f"{name}_distinct_pipelines": found.distinct}
    for row in correlations.iter_rows(named=True):
        label = "_".join(row[key] for key in ("measure", "outcome", "user_model", "training", "among"))
        figures |= {f"{label}": row["value"], f"{label}_low": row["low"], f"{label}_high": row["high"]}
    shown = serving.filter(
        pl.col("metric").is_in([reward_metric(serving), "engagement"])
        & pl.col("versus").is_null()
        & ((pl.col("reranker") == "greedy") | pl.col("reranker").is_null())
    )
    for row in shown.iter_rows(named=True):
        label = f"{row['metric']}_{row['ranker']}_{row['user_model']}_{row['training']}"
        figures |= {label: row["value"], f"{label}_low": row["low"], f"{label}_high": row["high"]}
    changes = loop_estimates(rounds).filter(
        (pl.col("round") == pl.col("round").max()) & (pl.col("versus") == "round 0")
    )
    for row in changes.iter_rows(named=True):
        label = f"loop_{row['measure']}_{row['ranker']}_change"
        figures |= {label: row["value"], f"{label}_low": row["low"], f"{label}_high": row["high"]}
    return figures
