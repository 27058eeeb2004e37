"""The fidelity report, part by part; each part is kept in the run folder, so that an interrupted run goes on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table

from envs.artefacts import written_whole
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_uniform
from envs.users.likelihood import EventSplit, split_events
from envs.users.protocol import UserModel
from evaluation.fidelity.ablations import FixedTaste
from evaluation.fidelity.calendar import CalendarEvents, calendar_date, real_calendar, simulated_calendars
from evaluation.fidelity.distances import ASPECTS, distance_table, lag_rates
from evaluation.fidelity.exposures import exposure_values
from evaluation.fidelity.free_running import Sequences, free_run, held_out_sequences, history
from evaluation.fidelity.report import distances_table, importances_table, two_sample_table
from evaluation.fidelity.sequence_classifier import sequence_test
from evaluation.fidelity.sequence_features import ItemFeatures, sequence_statistics
from evaluation.fidelity.statistics import UserSample, calendar_values, user_sample
from evaluation.fidelity.two_sample import TwoSample, tree_test
from evaluation.progress import Progress
from evaluation.runs import Run

MODEL = "model"
"""Name of the user model under test, beside 'popularity' and 'static'."""
SOURCES = (MODEL, "static", "popularity")


@dataclass(frozen=True, kw_only=True)
class FidelityConfig:
    """What the report rests on."""

    max_users: int = 2_000
    """Users who run freely, at most; drawn at random where the log has more."""
    max_events: int = 300
    """Events of a user that count, the first ones; as in the fit."""
    calendar_share: float = 0.8
    """Share of the log's events before the date from which visits, gaps and activity are compared, in (0, 1)."""
    calendar_draws: int = 10
    """Times that each user's visits from that date on are simulated."""
    splits: int = 50
    """Halvings of the users for the distances."""
    power_rate: float = 0.1
    """Share of events that are replaced by uniformly drawn items in the power check of the boosted trees."""
    seed: int = 0
    """Of the free runs, halvings, folds and classifiers."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A log, the user model under test, and the users who run freely."""

    log: InteractionLog
    split: EventSplit
    users: NDArray[np.int64]
    models: Mapping[str, UserModel]
    """Source -> user model."""
    config: FidelityConfig

    @classmethod
    def of(cls, log: InteractionLog, model: UserModel, config: FidelityConfig) -> "Study":
        """The study of `model`, with its ablations fitted."""
        split = split_events(log, config.max_events)
        users = np.flatnonzero(np.diff(split.starts) > 0)
        if len(users) > config.max_users:
            order = np.argsort(draw_uniform(config.seed, Purpose.SPLIT, users), kind="stable")
            users = np.sort(users[order[: config.max_users]])
        models = {
            MODEL: model,
            "static": FixedTaste.static(log, split, model),
            "popularity": FixedTaste.popularity(log, split, model),
        }
        return cls(log=log, split=split, users=users, models=models, config=config)

    @property
    def date(self) -> int:
        """Seconds since 1970 from which visits are compared."""
        return calendar_date(self.log, self.config.calendar_share)


def run_sequences(study: Study, run: Run, progress: Progress) -> dict[str, Sequences]:
    """Source ('real' and `SOURCES`) -> sequences of given length; kept as tables 'sequences/..._length'.

    Also writes real_sequences.parquet and simulated_sequences.parquet (the model under test) into the run's folder.
    """
    split, users = study.split, study.users
    found = {"real": held_out_sequences(split).of_users(users)}
    for source in SOURCES:
        name = f"sequences/{source}_length"
        if not run.has_table(name):
            with progress(f"{source} users run freely", 1) as report:
                made = free_run(study.models[source], study.log, split, seed=study.config.seed, users=users)
                report(1)
            columns = {"user": made.user, "item": made.item, "timestamp": made.timestamp}
            run.write_table(name, pl.DataFrame(columns))
        table = run.table(name)
        found[source] = Sequences(
            num_users=split.num_users,
            user=table["user"].to_numpy(),
            item=table["item"].to_numpy(),
            timestamp=table["timestamp"].to_numpy(),
        )
    for source, name in (("real", "real"), (MODEL, "simulated")):
        with written_whole(run.folder / f"{name}_sequences.parquet") as temporary:
            named_sequences(study.log, found[source]).write_parquet(temporary)
    return found


def run_calendar(study: Study, run: Run, progress: Progress) -> tuple[CalendarEvents, list[CalendarEvents]]:
    """(real, simulated) events from the study's date on; the simulated ones, several times and the same for every source, are kept
    as table 'calendar' (draw, user, timestamp). What rests on them is made anew when they are."""
    log, date, draws = study.log, study.date, study.config.calendar_draws
    real = real_calendar(log, date, study.users)
    if not run.has_table("calendar"):
        for name in ("distances", "curves"):
            run.table_path(name).unlink(missing_ok=True)
        with progress("visits from one date until the log's end", 1) as report:
            made = simulated_calendars(log, date, study.users, study.config.seed, draws)
            report(1)
        columns = [
            pl.DataFrame({"draw": np.full(len(one), draw), "user": one.user, "timestamp": one.timestamp})
            for draw, one in enumerate(made)
        ]
        run.write_table("calendar", pl.concat(columns))
    table = run.table("calendar")
    found = []
    for draw in range(draws):
        own = table.filter(pl.col("draw") == draw)
        found.append(replace(real, user=own["user"].to_numpy(), timestamp=own["timestamp"].to_numpy()))
    return real, found


def named_sequences(log: InteractionLog, sequences: Sequences) -> pl.DataFrame:
    """user_id, position (from 0), item_id, as the log names them."""
    return pl.DataFrame(
        {
            "user_id": log.users.user_ids[sequences.user],
            "position": sequences.position,
            "item_id": log.catalogue.item_ids[sequences.item],
        }
    )


def samples(
    study: Study,
    sequences: Mapping[str, Sequences],
    calendars: tuple[CalendarEvents, list[CalendarEvents]],
    features: ItemFeatures,
) -> dict[str, list[UserSample]]:
    """What the distances compare, of each source: a sample for each draw of its visits; `calendars` as of `run_calendar`."""
    real, simulated = calendars
    found = {}
    for source, events in sequences.items():
        exposures = exposure_values(
            study.models.get(source), study.log, study.users, study.config.seed, study.config.max_events
        )
        first, *others = [real] if source == "real" else simulated
        sample = user_sample(events, first, study.log.catalogue, features, exposures)
        again = [replace(sample, values={**sample.values, **calendar_values(other)}) for other in others]
        found[source] = [sample, *again]
    return found


def distances(study: Study, found: Mapping[str, list[UserSample]], run: Run, progress: Progress) -> pl.DataFrame:
    """See `evaluation.fidelity.distances.distance_table`; kept as table 'distances'."""
    if not run.has_table("distances"):
        done = 0
        with progress("distances, aspects", len(ASPECTS)) as report:

            def tick() -> None:
                nonlocal done
                done += 1
                report(done)

            simulated = {name: sample for name, sample in found.items() if name != "real"}
            config = study.config
            table = distance_table(found["real"][0], simulated, splits=config.splits, seed=config.seed, tick=tick)
        run.write_table("distances", table)
    return run.table("distances")


def two_sample_tests(
    study: Study,
    sequences: Mapping[str, Sequences],
    features: ItemFeatures,
    run: Run,
    progress: Progress,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Every classifier two-sample test; kept as tables 'two_sample', 'importances' and 'scores'.

    Returns:
        (test, classifier, auc, low, high), (statistic, importance, error, real, simulated: their means) of the trees on the model
        under test, and (test, is_simulated, score) of every sequence.
    """
    names = ("two_sample", "importances", "scores")
    if not all(run.has_table(name) for name in names):
        rows, scores = [], []
        importances = pl.DataFrame()
        tests = _tests(study, sequences, features)
        with progress("telling real from simulated users, tests", len(tests)) as report:
            for done, (name, (classifier, test)) in enumerate(tests.items(), start=1):
                result, statistics = test()
                rows.append(
                    {
                        "test": name,
                        "classifier": classifier,
                        "auc": result.auc,
                        "low": result.low,
                        "high": result.high,
                    }
                )
                scores.append(
                    pl.DataFrame({"is_simulated": result.is_simulated, "score": result.score}).select(
                        pl.lit(name).alias("test"), pl.all()
                    )
                )
                if statistics is not None:
                    importances = statistics
                report(done)
        for name, table in zip(names, (pl.DataFrame(rows), importances, pl.concat(scores)), strict=True):
            run.write_table(name, table)
    return run.table("two_sample"), run.table("importances"), run.table("scores")


Test = Callable[[], tuple[TwoSample, pl.DataFrame | None]]


def _tests(study: Study, sequences: Mapping[str, Sequences], features: ItemFeatures) -> dict[str, tuple[str, Test]]:
    """Name -> (classifier, the test)."""
    seed, past = study.config.seed, history(study.split)
    real = sequences["real"]
    statistics, names, users = sequence_statistics(real, past, features)

    def trees(other: Sequences, importances: bool = False) -> Test:
        def test() -> tuple[TwoSample, pl.DataFrame | None]:
            theirs, _, their_users = sequence_statistics(other, past, features)
            result = tree_test(statistics, theirs, users, their_users, names, seed=seed, importances=importances)
            return result, _importance_table(result, statistics, theirs, names) if importances else None

        return test

    def halves() -> tuple[TwoSample, None]:
        order = np.random.default_rng(seed).permutation(len(users))
        one, other = order[: len(users) // 2], order[len(users) // 2 :]
        return tree_test(statistics[one], statistics[other], users[one], users[other], names, seed=seed), None

    def reader(other: Sequences) -> Test:
        return lambda: (sequence_test(real, other, features, seed=seed), None)

    replaced = with_random_items(real, study.split.num_items, study.config.power_rate, seed)
    trees_name, reader_name = "boosted trees", "sequence classifier"
    return {
        "real halves": (trees_name, halves),
        "one event in ten replaced": (trees_name, trees(replaced)),
        "order shuffled": (reader_name, reader(shuffled(real, seed))),
        **{source: (trees_name, trees(sequences[source], source == MODEL)) for source in SOURCES},
        **{f"{source}, as sequences": (reader_name, reader(sequences[source])) for source in SOURCES},
    }


def with_random_items(sequences: Sequences, num_items: int, rate: float, seed: int) -> Sequences:
    """Sequences in which a share `rate` of the items is replaced by uniformly drawn ones: what the trees must find."""
    rng = np.random.default_rng(seed)
    replaced = rng.random(len(sequences)) < rate
    item = np.where(replaced, rng.integers(num_items, size=len(sequences)), sequences.item)
    return Sequences(num_users=sequences.num_users, user=sequences.user, item=item, timestamp=sequences.timestamp)


def shuffled(sequences: Sequences, seed: int) -> Sequences:
    """Sequences with each user's items in random order: what the sequence classifier must find."""
    noise = np.random.default_rng(seed).random(len(sequences))
    item = sequences.item[np.lexsort((noise, sequences.user))]
    return Sequences(num_users=sequences.num_users, user=sequences.user, item=item, timestamp=sequences.timestamp)


def _importance_table(
    result: TwoSample, real: NDArray[np.float64], simulated: NDArray[np.float64], names: tuple[str, ...]
) -> pl.DataFrame:
    rows = [
        {
            "statistic": name,
            "importance": result.importance[name][0],
            "error": result.importance[name][1],
            "real": float(np.nanmean(real[:, column])),
            "simulated": float(np.nanmean(simulated[:, column])),
            "real_sd": float(np.nanstd(real[:, column])),
            "simulated_sd": float(np.nanstd(simulated[:, column])),
        }
        for column, name in enumerate(names)
    ]
    return pl.DataFrame(rows).sort("importance", descending=True)


def curves(study: Study, found: Mapping[str, list[UserSample]]) -> pl.DataFrame:
    """What the plot page shows of each source in full: (curve, source, x, y); visits of all draws together."""
    everyone = np.ones(study.split.num_users, bool)
    rows = []
    for source, draws in found.items():
        sample = draws[0]
        counts = np.sort(sample.item_counts(everyone))[::-1]
        counts = counts[counts > 0]
        shown = np.unique(np.geomspace(1, len(counts), 200).astype(int)) - 1
        rows += [("rank_frequency", source, float(rank + 1), float(counts[rank] / counts.sum())) for rank in shown]
        lags = lag_rates(sample.repeats, everyone)
        rows += [("category_lags", source, float(lag + 1), float(rate)) for lag, rate in enumerate(lags)]
        for name in sample.values:
            levels = np.linspace(0, 1, 101)
            values = np.concatenate([draw.values[name].value for draw in draws])
            if len(values):
                quantiles = np.quantile(values, levels)
                rows += [(name, source, float(x), float(y)) for x, y in zip(quantiles, levels, strict=True)]
    return pl.DataFrame(rows, schema=["curve", "source", "x", "y"], orient="row")


def fidelity_figures(distance: pl.DataFrame, tests: pl.DataFrame) -> dict[str, float]:
    """Flat figures: AUCs with intervals, distances over their floors, and the worst of the model's."""
    auc = {row["test"]: row for row in tests.iter_rows(named=True)}
    names = {
        "c2st_auc": MODEL,
        "c2st_auc_sequence": f"{MODEL}, as sequences",
        "c2st_auc_popularity": "popularity",
        "c2st_auc_static": "static",
        "c2st_auc_real_halves": "real halves",
        "c2st_power_replaced": "one event in ten replaced",
        "c2st_power_shuffled": "order shuffled",
    }
    ends = {"": "auc", "_low": "low", "_high": "high"}
    figures = {f"{name}{end}": auc[test][column] for name, test in names.items() for end, column in ends.items()}
    own = distance.filter((pl.col("source") == MODEL) & pl.col("ratio").is_not_null())
    figures |= {f"distance_over_floor_{row['aspect']}": row["ratio"] for row in own.iter_rows(named=True)}
    figures["worst_distance_over_floor"] = max(own["ratio"].to_list(), default=float("nan"))
    return figures


@dataclass(frozen=True, kw_only=True)
class FidelityReport:
    """What a study found."""

    distances: pl.DataFrame
    """See `distance_table`."""
    two_sample: pl.DataFrame
    """See `two_sample_tests`."""
    importances: pl.DataFrame
    """See `two_sample_tests`."""

    def tables(self) -> list[Table]:
        """For the terminal."""
        return [
            distances_table(self.distances),
            two_sample_table(self.two_sample),
            importances_table(self.importances),
        ]

    def figures(self) -> dict[str, float]:
        """See `fidelity_figures`."""
        return fidelity_figures(self.distances, self.two_sample)


def fidelity_report(study: Study, run: Run, progress: Progress) -> FidelityReport:
    """Every part of the report but the likelihoods; what the run folder has is not made again."""
    sequences = run_sequences(study, run, progress)
    features = ItemFeatures.of(study.log.catalogue, study.split)
    found = samples(study, sequences, run_calendar(study, run, progress), features)
    distance = distances(study, found, run, progress)
    if not run.has_table("curves"):
        run.write_table("curves", curves(study, found))
    tests, importance, _ = two_sample_tests(study, sequences, features, run, progress)
    return FidelityReport(distances=distance, two_sample=tests, importances=importance)
