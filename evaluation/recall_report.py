"""What each recall channel places among the candidates, and what it adds, as a person reads it and as flat figures."""

import polars as pl
from rich.table import Table

from envs.logs.schema import InteractionLog
from evaluation.runs import Run
from recall import MergedRecall
from recall.quality import leave_last_out, measured_quality

RECALL_TABLE = "recall_channels"
"""Name of the run's table: see `recall.quality.ChannelQuality`."""


def tell_channels(recall: MergedRecall, log: InteractionLog, candidates: int, run: Run) -> None:
    """Writes what the channels of `recall` are worth to the run, unless it is there.

    Args:
        recall: fitted to `log` without each user's last consumption, or to less.
        log: rows whose users' last consumptions are asked for.
        candidates: C.
        run: the folder.
    """
    if not run.has_table(RECALL_TABLE):
        run.write_table(RECALL_TABLE, measured_quality(recall, leave_last_out(log), candidates).table())


def channels_table(channels: pl.DataFrame) -> Table:
    """A row a channel: recall alone, share of the candidates, what it adds; then popularity."""
    table = Table("channel", "recall alone", "quota", "placed", "found", "no other found", "adds to recall")
    table.title = "Recall channels: is each user's last item among the candidates?"
    for row in channels.iter_rows(named=True):
        whole = row["channel"] in ("merged", "popularity")
        shares = ["–" if whole else f"{row[name]:.1%}" for name in ("quota", "share", "found", "alone")]
        adds = "–" if whole else _told(row, "adds", "adds_low", "adds_high")
        table.add_row(row["channel"], _told(row, "recall", "low", "high"), *shares, adds)
    table.caption = (
        "Shares are of the merged candidates; placed: it was the first channel to bring them. Adds: recall of all less that of the "
        "others alone; of a channel without quota, what a tenth of the candidates would add. 95 % intervals over users."
    )
    return table


def channel_figures(channels: pl.DataFrame) -> dict[str, float]:
    """Flat figures: recall_<channel>, recall_share_<channel> and recall_adds_<channel>, with _low and _high but of the share."""
    figures: dict[str, float] = {}
    for row in channels.iter_rows(named=True):
        name = row["channel"]
        figures |= {
            f"recall_{name}": row["recall"],
            f"recall_{name}_low": row["low"],
            f"recall_{name}_high": row["high"],
        }
        if name not in ("merged", "popularity"):
            figures[f"recall_share_{name}"] = row["share"]
            figures |= {f"recall_adds_{name}{end}": row[f"adds{end}"] for end in ("", "_low", "_high")}
    return figures


def _told(row: dict[str, float], value: str, low: str, high: str) -> str:
    return f"{row[value]:.3f} ({row[low]:.3f}, {row[high]:.3f})"
