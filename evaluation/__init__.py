"""Honest comparison: the same simulated users for every agent, paired intervals, tables, plots and run folders."""

from evaluation.comparison import ComparisonConfig, ComparisonResult, ServingConfig, compare
from evaluation.figures import save_figures
from evaluation.runs import Run

__all__ = ["ComparisonConfig", "ComparisonResult", "Run", "ServingConfig", "compare", "save_figures"]
