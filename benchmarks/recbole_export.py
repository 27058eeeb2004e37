"""RecBole 1.2.1's models on MovieLens 100K, user by user, to set our rankers beside.

RecBole wants older libraries than ours, so this script runs in an environment of RecBole's own and imports nothing of ours.
RecBole's wheel carries MovieLens 100K, so nothing is fetched.

Run: RECBOLE/bin/python -W ignore benchmarks/recbole_export.py FOLDER [MODEL ...]    (all models, unless told otherwise)

Each user's last item is the test, the one before it the validation. Rankers (BPR, NeuMF, SASRec, GRU4Rec) rank all items that
the user has not seen, in validation and test: RecBole's sequence models would rank seen items too, so their loaders are given
the seen ones. DIN and DIEN tell ratings of 4 and more from lower ones. Each model is trained in up to four configurations, on
one thread, with early stopping on RecBole's validation. Of each, FOLDER gets MODEL-NUMBER.csv, a row a user, and then
MODEL-NUMBER.json; what is there is not run again.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

# RecBole 1.2.1 predates torch 2.6's weights_only default and numpy 2, and imports ray for a tuner that is not used here
_load = torch.load
torch.load = lambda *args, **kwargs: _load(*args, **{**kwargs, "weights_only": False})
sys.modules.setdefault("ray", types.ModuleType("ray")).tune = sys.modules.setdefault(  # type: ignore[attr-defined]
    "ray.tune", types.ModuleType("ray.tune")
)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

COMMON: Mapping[str, Any] = {
    "state": "ERROR",
    "show_progress": False,
    "use_gpu": False,
    "gpu_id": "",
    "reproducibility": True,
    "seed": 2026,
    "epochs": 100,
    "stopping_step": 5,
    "train_batch_size": 2048,
    "eval_batch_size": 400_000,
    "worker": 0,
    "MAX_ITEM_LIST_LENGTH": 20,
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "class"],
        "user": ["user_id"],
    },
}
SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
RANKING: Mapping[str, Any] = {
    "eval_args": {**SPLIT, "mode": "full"},
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
}
CLICKS: Mapping[str, Any] = {
    "threshold": {"rating": 4},
    "train_neg_sample_args": None,
    "eval_args": {**SPLIT, "mode": {"valid": "labeled", "test": "labeled"}},
    "metrics": ["AUC", "LogLoss"],
    "valid_metric": "AUC",
    "metric_decimal_place": 6,
}
SOFTMAX: Mapping[str, Any] = {**RANKING, "loss_type": "CE", "train_neg_sample_args": None}
OF_USERS = {**COMMON["load_col"], "user": ["user_id", "age", "gender", "occupation"]}
SMALL = {"mlp_hidden_size": [64, 64], "dropout_prob": 0.2}
MODELS: Mapping[str, tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]] = {
    "BPR": (
        RANKING,
        ({}, {"weight_decay": 1e-5}, {"weight_decay": 1e-4}, {"learning_rate": 5e-3, "weight_decay": 1e-4}),
    ),
    "NeuMF": (
        RANKING,
        (
            {},
            {"weight_decay": 1e-5, "dropout_prob": 0.3},
            {"weight_decay": 1e-4},
            {"mf_embedding_size": 32, "mlp_embedding_size": 32, "mlp_hidden_size": [64, 32], "learning_rate": 5e-3},
        ),
    ),
    "GRU4Rec": (SOFTMAX, ({}, {"dropout_prob": 0.5, "learning_rate": 3e-3}, {"MAX_ITEM_LIST_LENGTH": 50})),
    "SASRec": (
        SOFTMAX,
        (
            {},
            {"hidden_dropout_prob": 0.3, "attn_dropout_prob": 0.3, "learning_rate": 3e-3},
            {"MAX_ITEM_LIST_LENGTH": 50},
        ),
    ),
    "DIN": (CLICKS, ({}, SMALL, {**SMALL, "weight_decay": 1e-4}, {**SMALL, "embedding_size": 32})),
    "DIEN": (CLICKS, ({}, SMALL, {**SMALL, "load_col": OF_USERS}, {**SMALL, "weight_decay": 1e-4})),
}
"""Model -> (its task, the configurations tried, each what differs from RecBole's defaults)."""


def run(model: str, number: int, folder: Path) -> None:
    """Trains a model in its configuration `number` and writes what became of each user, and then the account of it."""
    task, tried = MODELS[model]
    began, cpu_began = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as checkpoints:
        settings = {**COMMON, **task, "checkpoint_dir": checkpoints, **tried[number]}
        config = Config(model=model, dataset="ml-100k", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        seen = seen_items(dataset)
        parts = data_preparation(config, dataset)
        init_seed(config["seed"], config["reproducibility"])
        network = get_model(model)(config, parts[0]._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
        is_ranker = task is not CLICKS
        if is_ranker:
            for part in parts[1:]:
                if part.is_sequential:
                    part.collate_fn = masking(part.collate_fn, seen, parts, is_test=part is parts[2])
        passes: list[float] = []
        trainer.fit(
            parts[0], parts[1], saved=True, show_progress=False, callback_fn=lambda _, s: passes.append(float(s))
        )
        trainer.evaluate(parts[1], load_best_model=True, show_progress=False)
        tables = [
            (ranks if is_ranker else scores)(trainer, part, name)
            for part, name in zip(parts[1:], ("valid", "test"), strict=True)
        ]
    write(tables[0].merge(tables[1], on="user_id", how="outer"), folder / f"{model}-{number}.csv")
    account = {
        "model": model,
        "number": number,
        "configuration": dict(tried[number]),
        "valid": max(passes),
        "passes": len(passes),
        "best_pass": int(np.argmax(passes)) + 1,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu_began, 1),
    }
    write(account, folder / f"{model}-{number}.json")
    print(json.dumps(account), flush=True)


def rows_in_order() -> pd.DataFrame:
    """All rows of the log in RecBole's order of time: it keeps timestamps as 32-bit floats; rows equal in them stay in the file's
    order."""
    config = Config(model="BPR", dataset="ml-100k", config_dict={**COMMON, **RANKING})
    dataset = create_dataset(config)
    data_preparation(config, dataset)
    rows = dataset.inter_feat
    users, items = (dataset.id2token(field, rows[field].numpy()) for field in (dataset.uid_field, dataset.iid_field))
    return pd.DataFrame(
        {"user_id": users, "item_id": items, "rating": rows["rating"].numpy(), "timestamp": rows["timestamp"].numpy()}
    )


def seen_items(dataset: Any) -> dict[int, set[int]]:
    """User -> all items of the user, in RecBole's numbers."""
    items: dict[int, set[int]] = {}
    columns = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
    for user, item in zip(*(np.asarray(column).tolist() for column in columns), strict=True):
        items.setdefault(user, set()).add(item)
    return items


def masking(collate: Callable, seen: dict[int, set[int]], parts: Any, *, is_test: bool) -> Callable:
    """RecBole's `collate_fn` of a sequential loader, which also tells what each user had seen before the item asked for."""
    user_field, item_field = parts[2]._dataset.uid_field, parts[2]._dataset.iid_field
    held = parts[2]._dataset.inter_feat
    last = dict(zip(held[user_field].tolist(), held[item_field].tolist(), strict=True))

    def collated(index: Any) -> Any:
        interaction, _, row, target = collate(index)
        users = interaction[user_field].tolist()
        before = [
            sorted(seen[user] - {item} - (set() if is_test else {last[user]}))
            for user, item in zip(users, target.tolist(), strict=True)
        ]
        rows = torch.repeat_interleave(torch.arange(len(users)), torch.tensor([len(items) for items in before]))
        return interaction, (rows, torch.tensor([item for items in before for item in items])), row, target

    return collated


def ranks(trainer: Any, part: Any, name: str) -> pd.DataFrame:
    """A row a user: the item asked for, and its rank among those unseen, 0 for the best; equal scores share their mean rank."""
    rows, fields = [], part._dataset
    trainer.tot_item_num = fields.item_num
    with torch.no_grad():
        for batch in part:
            interaction, score, row, target = trainer._full_sort_batch_eval(batch)
            own = score[row, target][:, None]
            better, equal = (score > own).sum(dim=1), (score == own).sum(dim=1) - 1
            rank = (better + equal / 2).tolist()
            users = fields.id2token(fields.uid_field, interaction[fields.uid_field].numpy())
            rows.append((users, fields.id2token(fields.iid_field, target.numpy()), rank))
    user, item, rank = (np.concatenate(column) for column in zip(*rows, strict=True))
    return pd.DataFrame({"user_id": user, f"{name}_item": item, f"{name}_rank": rank})


def scores(trainer: Any, part: Any, name: str) -> pd.DataFrame:
    """A row a user: the item asked for, whether it was liked, and the probability that was told."""
    rows, fields = [], part._dataset
    with torch.no_grad():
        for interaction, *_ in part:
            score = trainer.model.predict(interaction).numpy()
            users = fields.id2token(fields.uid_field, interaction[fields.uid_field].numpy())
            items = fields.id2token(fields.iid_field, interaction[fields.iid_field].numpy())
            rows.append((users, items, interaction[fields.label_field].numpy().astype(int), score))
    user, item, label, score = (np.concatenate(column) for column in zip(*rows, strict=True))
    return pd.DataFrame({"user_id": user, f"{name}_item": item, f"{name}_label": label, f"{name}_score": score})


def write(content: Any, path: Path) -> None:
    """Writes a table or an account, whole or not at all."""
    part = path.with_suffix(".part")
    if isinstance(content, pd.DataFrame):
        content.to_csv(part, index=False)
    else:
        part.write_text(json.dumps(content) + "\n")
    os.replace(part, path)


def main() -> None:
    """Runs what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the exports go")
    parser.add_argument("models", nargs="*", help="all, unless told otherwise")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    models = asked.models or list(MODELS)
    if not (asked.folder / "rows.csv").exists():
        write(rows_in_order(), asked.folder / "rows.csv")
    # the defaults of all models come first, so that an interrupted export is of use
    for number in range(max(len(tried) for _, tried in MODELS.values())):
        for model in models:
            if number < len(MODELS[model][1]) and not (asked.folder / f"{model}-{number}.json").exists():
                run(model, number, asked.folder)


if __name__ == "__main__":
    main()
