"""Are simulated users like those of the log? Free-running lives beside held-out ones, distances beside their floor, and
classifiers that try to tell the two apart (docs/fidelity.md)."""
