"""Speed beside public simulators and the machine's limits, run on demand: `python -m benchmarks.env_speed`."""
