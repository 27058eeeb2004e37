"""Honest comparison: the same simulated users for every agent, paired intervals, tables, plots and run folders."""
