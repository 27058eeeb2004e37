"""Trajectories of a run for other tools: one Parquet file, or one Minari data set, for each agent and training seed.

    python simulate.py export results/compare-... --format parquet --out exported
    python simulate.py export results/compare-... --format minari --agents mf,ppo

A run keeps what was shown and what users did. Lives depend on the slates alone, so the slates are shown again to the same users
in the same world, which gives observations and rewards to the bit; a life that goes another way than it was logged ends the
export. An episode is a user's life over the run's days, a step is a request. docs/export.md has the columns.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.artefacts import written_whole
from envs.errors import ArtefactError, ConfigurationError
from envs.event_log import EventLog, matrix, slate_places
from envs.slate_env import SlateVectorEnv
from evaluation.comparison import EVALUATION_SEED_OFFSET
from evaluation.progress import Progress, progress
from evaluation.remade import Remade, remade
from evaluation.runs import Run

BLOCK_USERS = 256
"""Users whose lives are gone through together; bounds memory and changes nothing else."""


@dataclass(frozen=True)
class Episode:
    """The life of one user under one agent: T requests."""

    user: int
    """Index of the user."""
    observations: dict[str, NDArray[Any]]
    """Arrays [T + 1, ...] by name, as the environment's observation has them; the last is what came after the last request."""
    actions: NDArray[np.int64]
    """[T, K] slates as indices into the candidates; an empty slot holds a masked one."""
    propensities: NDArray[np.float32]
    """[T, K] chance of each slot's item given those above it, NaN where the agent told none."""
    rewards: NDArray[np.float64]
    """[T]."""
    terminated: NDArray[np.bool_]
    """[T] whether the user left for good."""
    truncated: NDArray[np.bool_]
    """[T] whether the horizon was reached."""
    seen: dict[str, NDArray[Any]]
    """Arrays [T, ...] of what was seen of the answers, those of `SEEN`."""

    def __len__(self) -> int:
        return len(self.rewards)


SEEN = (
    "clock",
    "slate_items",
    "clicked_slot",
    "clicked_item",
    "rating",
    "engagement",
    "diversity",
    "freshness",
    "leave",
)
"""Entries of the environment's `info` that are exported."""


def event_logs(run: Run, agents: Sequence[str] = ()) -> dict[str, Path]:
    """'<agent>-seed<n>' -> event log of a run, those of `agents` (all where none is named) in the order of their names.

    Raises:
        ArtefactError: if the run kept no events.
        ConfigurationError: if an agent has none in it.
    """
    found = {path.stem: path for path in sorted((run.folder / "events").glob("*.parquet"))}
    if not found:
        raise ArtefactError(
            f"run '{run.folder}' kept no events; make one that does: simulate.py compare, or benchmarks.task_scores --events."
        )
    names = {stem: stem.rpartition("-seed")[0] for stem in found}
    for agent in agents:
        if agent not in names.values():
            raise ConfigurationError(
                f"--agents names '{agent}', which run '{run.folder}' has no events of; it has "
                f"{', '.join(dict.fromkeys(names.values()))}."
            )
    return {stem: path for stem, path in found.items() if not agents or names[stem] in agents}


def replayed(events: EventLog, lived: Remade, whose: str, block: int = BLOCK_USERS) -> Iterator[list[Episode]]:
    """Episodes of all users of an event log, some hundred at a time, users in ascending order.

    Args:
        events: of one agent.
        lived: the world of the run.
        whose: the event log's name, for sentences.
        block: users at a time.

    Raises:
        ArtefactError: if a user is offered or does something else than what was logged.
    """
    table = events.table
    user, request = table["user"].to_numpy(), table["request"].to_numpy()
    order = np.lexsort((request, user))
    slates, candidates = matrix(table, "slate")[order], matrix(table, "candidates")[order]
    propensities, items = matrix(table, "propensity")[order], table["item"].to_numpy()[order]
    users, begins = np.unique(user[order], return_index=True)
    ends = np.append(begins[1:], len(order))
    for start in range(0, len(users), block):
        part = slice(start, start + block)
        yield _relive(users[part], begins[part], ends[part], candidates, slates, propensities, items, lived, whose)


def _relive(
    users: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    candidates: NDArray[np.int32],
    slates: NDArray[np.int32],
    propensities: NDArray[np.float32],
    items: NDArray[np.int32],
    lived: Remade,
    whose: str,
) -> list[Episode]:
    """Episodes of `users` [N], whose rows are `begins` to `ends` of the other arrays."""
    config = lived.comparison
    env = SlateVectorEnv(
        len(users),
        world=lived.world,
        candidate_source=lived.candidate_source,
        users=users,
        slate_size=config.serving.slate_size,
        num_candidates=config.serving.num_candidates,
        reward_weights=config.serving.reward_weights,
        autoreset_mode=AutoresetMode.DISABLED,
        seed=config.seed + EVALUATION_SEED_OFFSET,
    )
    env.reset()
    place, request = np.arange(len(users)), 0
    observed: list[list[dict[str, NDArray[Any]]]] = [[] for _ in users]
    stepped: list[list[dict[str, Any]]] = [[] for _ in users]
    while env.num_envs:
        rows = begins[place] + request
        if (rows >= ends[place]).any():
            raise _other_life(whose, users[place[np.argmax(rows >= ends[place])]], request)
        before = _copied(env.observation.to_dict())
        actions = slate_places(slates[rows], before["candidate_items"], before["candidate_mask"])
        after, reward, terminated, truncated, info = env.step(actions)
        wrong = (before["candidate_items"] != candidates[rows]).any(axis=1)
        wrong |= (info["slate_items"] != slates[rows]).any(axis=1) | (info["clicked_item"] != items[rows])
        if wrong.any():
            raise _other_life(whose, users[place[np.argmax(wrong)]], request)
        ended = terminated | truncated
        final = _copied(after) if ended.any() else {}
        for row, slot in enumerate(place):
            observed[slot].append({name: array[row] for name, array in before.items()})
            step = {name: info[name][row] for name in SEEN}
            step |= {"action": actions[row], "reward": reward[row], "propensity": propensities[rows[row]]}
            step |= {"terminated": terminated[row], "truncated": truncated[row]}
            stepped[slot].append(step)
            if ended[row]:
                observed[slot].append({name: array[row] for name, array in final.items()})
        request += 1
        if ended.any():
            place = place[env.drop_ended()]
    return [_episode(int(user), observed[slot], stepped[slot]) for slot, user in enumerate(users)]


def _episode(user: int, observed: list[dict[str, NDArray[Any]]], steps: list[dict[str, Any]]) -> Episode:
    def stacked(name: str) -> NDArray[Any]:
        return np.array([step[name] for step in steps])

    return Episode(
        user=user,
        observations={name: np.array([each[name] for each in observed]) for name in observed[0]},
        actions=stacked("action"),
        propensities=stacked("propensity"),
        rewards=stacked("reward"),
        terminated=stacked("terminated"),
        truncated=stacked("truncated"),
        seen={name: stacked(name) for name in SEEN},
    )


def _copied(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The environment's buffers are written over by the next request."""
    return {name: array.copy() for name, array in arrays.items()}


def _other_life(whose: str, user: int, request: int) -> ArtefactError:
    return ArtefactError(
        f"'{whose}': user {user} is offered or does something else in request {request} than what was logged, so this version of "
        "driftrec, its caches or files are not those that made the run; make the run again and export that."
    )


# ------------------------------------------------------------------------------------------------------------- Parquet
def export_parquet(run: Run, folder: Path, agents: Sequence[str] = (), report: Progress = progress) -> list[Path]:
    """Writes <folder>/<agent>-seed<n>.parquet, one row a request; docs/export.md has the columns.

    Args:
        run: a finished run of `compare`, or of benchmarks.task_scores with --events.
        folder: where the files go.
        agents: whose; all by default.
        report: shows progress.

    Raises:
        ArtefactError: if the run kept no events or a life goes another way than it was logged.
        ConfigurationError: if an agent has no events, or the folder cannot be written.
    """
    logs = event_logs(run, agents)
    lived = remade(run)
    written = []
    for stem, path in logs.items():
        events = EventLog.read(path)
        target = folder / f"{stem}.parquet"
        with written_whole(target) as temporary, report(f"{stem}", len(events)) as tick:
            writer, done = None, 0
            for episodes in replayed(events, lived, stem):
                table = _rows(episodes, lived, events, stem)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                done += len(table)
                tick(done)
            if writer is not None:
                writer.close()
        written.append(target)
    return written


def _rows(episodes: Sequence[Episode], lived: Remade, events: EventLog, stem: str) -> pa.Table:
    """Requests of some users, user by user."""
    log, reference = lived.world.policy_log, lived.world.reference_time
    lengths = [len(episode) for episode in episodes]
    user = np.repeat([episode.user for episode in episodes], lengths)
    agent = events.table["policy_version"][0].as_py()

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([episode.seen[name] for episode in episodes])

    def observed(name: str) -> NDArray[Any]:
        return np.concatenate([episode.observations[name][:-1] for episode in episodes])

    def lists(values: NDArray[Any]) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])

    item, place = joined("clicked_item"), observed("context")[:, 2]
    step = np.concatenate([np.arange(length) for length in lengths])
    begins_visit = place == 0
    visit = np.cumsum(begins_visit) - np.repeat(np.cumsum(begins_visit)[step == 0], lengths)
    clock = joined("clock")
    seed = int(stem.partition("-seed")[2].partition("-")[0])
    return pa.table(
        {
            "agent": pa.array([agent] * len(user), pa.string()).dictionary_encode(),
            "training_seed": pa.array(np.full(len(user), seed, np.int32)),
            "user": pa.array(user.astype(np.int64)),
            "user_id": pa.array(log.users.user_ids[user % lived.world.num_users]),
            "step": pa.array(step.astype(np.int32)),
            "visit": pa.array(visit.astype(np.int32)),
            "timestamp": pa.array((reference + clock).astype(np.int64)),
            "day": pa.array(clock / 86_400),
            "candidates": lists(observed("candidate_items")),
            "candidate_scores": lists(observed("candidate_features")[:, :, 0]),
            "action": lists(np.concatenate([episode.actions for episode in episodes]).astype(np.int32)),
            "slate": lists(joined("slate_items")),
            "propensity": lists(np.concatenate([episode.propensities for episode in episodes])),
            "clicked_slot": pa.array(joined("clicked_slot").astype(np.int16)),
            "item": pa.array(item, mask=item < 0),
            "item_id": pa.array(log.catalogue.item_ids[np.maximum(item, 0)], mask=item < 0),
            "rating": pa.array(joined("rating"), from_pandas=True),
            "reward": pa.array(np.concatenate([episode.rewards for episode in episodes])),
            "engagement": pa.array(joined("engagement")),
            "diversity": pa.array(joined("diversity")),
            "freshness": pa.array(joined("freshness")),
            "left": pa.array(joined("leave")),
            "terminated": pa.array(np.concatenate([episode.terminated for episode in episodes])),
            "truncated": pa.array(np.concatenate([episode.truncated for episode in episodes])),
        }
    )


# -------------------------------------------------------------------------------------------------------------- Minari
def export_minari(
    run: Run, folder: Path | None = None, agents: Sequence[str] = (), report: Progress = progress
) -> list[str]:
    """Makes a Minari data set of each agent and training seed, 'driftrec/<run>/<agent>-seed<n>-v0'.

    Observations are those of the environment, actions are slates. The run's mean returns of random and of the look-ahead oracle,
    where it has them, are the reference scores. Of a frozen task, `recover_environment` gives the environment.

    Args:
        run: as of `export_parquet`.
        folder: where data sets go; None for Minari's own folder (`MINARI_DATASETS_PATH`, else ~/.minari/datasets).
        agents: whose; all by default.
        report: shows progress.

    Returns:
        Names of the data sets.

    Raises:
        ConfigurationError: if Minari is not installed, a data set is there already, or as `export_parquet`.
        ArtefactError: as `export_parquet`.
    """
    minari = _minari()
    logs = event_logs(run, agents)
    names = {stem: f"driftrec/{_plain(run.folder.resolve().name)}/{_plain(stem)}-v0" for stem in logs}
    with _kept_in(folder) as root:
        for name in names.values():
            if (root / name).exists():
                raise ConfigurationError(f"data set '{name}' is in '{root}' already; delete it, or give another --out.")
    lived = remade(run)
    for stem, path in logs.items():
        with _kept_in(folder) as root, TemporaryDirectory(prefix=".driftrec-", dir=root) as unfinished:
            with _kept_in(Path(unfinished)):
                _make_minari(minari, names[stem], EventLog.read(path), lived, run, stem, report)
            namespace = names[stem].rpartition("/")[0]
            if namespace not in minari.namespace.list_local_namespaces():
                minari.namespace.create_namespace(namespace)
            os.replace(Path(unfinished) / names[stem], root / names[stem])
    return list(names.values())


def _make_minari(
    minari: Any, name: str, events: EventLog, lived: Remade, run: Run, stem: str, report: Progress
) -> None:
    env = SlateVectorEnv(
        1,
        world=lived.world,
        slate_size=lived.comparison.serving.slate_size,
        num_candidates=lived.comparison.serving.num_candidates,
    )
    scores = _reference_scores(run)
    data_set, done = None, 0
    with report(stem, len(events)) as tick:
        for episodes in replayed(events, lived, stem):
            buffers = [_buffer(minari, episode) for episode in episodes]
            if data_set is None:
                data_set = _created(
                    minari,
                    dataset_id=name,
                    buffer=buffers,
                    env=None if lived.task is None else gymnasium.spec(lived.task.id),
                    observation_space=env.single_observation_space,
                    action_space=env.single_action_space,
                    algorithm_name=events.table["policy_version"][0].as_py(),
                    description=(
                        f"Lives of simulated users under '{stem}', from a run of driftrec; an episode is a user's life over "
                        "the run's days, a step is a request, an action is a slate of indices into the candidates."
                    ),
                    data_format="arrow",
                )
            else:
                data_set.storage.update_episodes(buffers)
            done += sum(map(len, episodes))
            tick(done)
        if data_set is not None and scores is not None:
            data_set.storage.update_metadata({"ref_min_score": scores[0], "ref_max_score": scores[1]})


def _created(minari: Any, **arguments: Any) -> Any:
    """A new data set; Minari's advice on authors and links, which are the caller's to add, is left unsaid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return minari.create_dataset_from_buffers(**arguments)


def _buffer(minari: Any, episode: Episode) -> Any:
    """An episode as Minari takes it; its infos begin with what is known before the first request: nothing."""
    names = ("engagement", "diversity", "freshness", "clicked_slot", "leave")
    known = {name: episode.seen[name][:, None] for name in names}  # Minari's Arrow files keep no scalars
    first = {name: np.zeros_like(array[:1]) for name, array in known.items()}
    first["clicked_slot"][:] = -1
    return minari.data_collector.EpisodeBuffer(
        options={"user": episode.user},
        observations=episode.observations,
        actions=episode.actions,
        rewards=list(episode.rewards),
        terminations=list(episode.terminated),
        truncations=list(episode.truncated),
        infos={name: np.concatenate([first[name], array]) for name, array in known.items()},
    )


def _reference_scores(run: Run) -> tuple[float, float] | None:
    """Mean returns of random and of the look-ahead oracle, None where the run has only one of them, or neither."""
    if not run.has_table("users"):
        return None
    means = dict(run.table("users").group_by("agent").agg(pl.col("reward").mean()).iter_rows())
    if "random" not in means or "oracle_lookahead" not in means:
        return None
    return float(means["random"]), float(means["oracle_lookahead"])


def _minari() -> Any:
    try:
        import minari
        import minari.data_collector
        import minari.namespace
    except ImportError as error:
        raise ConfigurationError(
            f"--format minari needs the package minari, which cannot be imported ({error}); install it by "
            "pip install -c constraints.txt -e '.[minari]', or take --format parquet."
        ) from error
    return minari


@contextmanager
def _kept_in(folder: Path | None) -> Iterator[Path]:
    """Minari's folder is `folder` inside the block; yields where it is."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    if folder is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(folder.resolve())
    place = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    except OSError as error:
        raise ConfigurationError(f"'{place}' cannot be written ({error.strerror}); choose another --out.") from error
    finally:
        if folder is not None:
            os.environ.pop("MINARI_DATASETS_PATH")
            if before is not None:
                os.environ["MINARI_DATASETS_PATH"] = before


def _plain(name: str) -> str:
    """A name of letters, digits, '-' and '_', as Minari wants it."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
