"""Recall of the next item by channel and merged, beside popularity.

Run: python -m benchmarks.recall_quality [DATASET] [CHANNELS]     (ml-100k and all channels, unless told otherwise)

Every user's last consumption is held out, and asked for with 100 candidates. Intervals are over users, differences paired. The
default quotas were chosen on the consumption before the last one.
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

DEFAULT_CHANNELS = "als=0.3,two_tower=0.4,bpr=0.1,item_to_item=0.1,popular=0.02,fresh=0.05,category=0.03"


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
