"""Recall of the next item by channel and merged, beside popularity.

Run: python -m benchmarks.recall_quality [DATASET] [CHANNELS]     (ml-100k and all channels, unless told otherwise)

Every user's last consumption is held out, and asked for with 100 candidates. Intervals are over users, differences paired. The
default quotas are the best of a grid on the consumption before the last one, of equal ones those of the fewest channels; of
channels without quota the table tells what they would add with a tenth of the candidates.
Writes results/recall_quality.json.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import polars as pl

from envs.artefacts import save_json
from envs.logs import load_log
from recall.merging import MergedRecall, RecallConfig
from recall.quality import recall_quality

DEFAULT_CHANNELS = "als=0.8,two_tower=0.2,bpr=0,item_to_item=0,popular=0,fresh=0,category=0"


def main() -> None:
    """Measures and prints the table and its figures."""
    dataset, channels = [*sys.argv[1:3], *["ml-100k", DEFAULT_CHANNELS][len(sys.argv) - 1 :]]
    report = recall_quality(MergedRecall.of(RecallConfig.parse(channels)), load_log(dataset))
    with pl.Config(tbl_cols=-1, tbl_rows=-1, tbl_width_chars=220, float_precision=3):
        print(report.table())
    for name, value in report.figures().items():
        print(f"{name}: {value:.4f}")
    content = {
        "dataset": dataset,
        "channels": channels,
        "users": report.users,
        "table": [asdict(row) for row in report.rows],
    }
    save_json(Path("results/recall_quality.json"), {**report.figures(), **content})


if __name__ == "__main__":
    main()
