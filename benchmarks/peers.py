"""User-steps per second of SARDINE and RecSim under a random policy; a user-step is one user answering one slate.

`PeerProcess` builds a virtual environment for the two in the user's cache folder (their dependencies do not fit ours) and
runs this file's main part in it, which answers each line on its standard input with one measurement.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PEERS = ("sardine-rec==1.0.8", "recsim-no-tf==0.2.3")
PEER_DEPENDENCIES = ("numpy", "gymnasium", "gym==0.26.2", "absl-py", "scipy", "gin-config", "six")


class PeerProcess:
    """Measures the peers in a process of their own, on the cores that this process is pinned to."""

    def __init__(self, folder: Path) -> None:
        python = folder / "bin" / "python"
        ready = folder / "installed.txt"
        wanted = "\n".join((*PEERS, *PEER_DEPENDENCIES))
        if not ready.exists() or ready.read_text() != wanted:
            print(f"installing {' and '.join(PEERS)} into {folder} ...", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            for arguments in (("--no-deps", *PEERS), PEER_DEPENDENCIES):
                subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
            ready.write_text(wanted)
        self._process = subprocess.Popen(
            [python, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def measure(self, name: str) -> float:
        """User-steps per second of 'sardine' or 'recsim', over two seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that measures '{name}' ended; delete its folder and run again.")
        return float(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()


def _sardine() -> Callable[[], object]:
    import gymnasium
    import sardine  # noqa: F401  registers the ids

    env = gymnasium.make("sardine/SlateTopK-Bored-v0")
    env.reset(seed=0)

    def step() -> None:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    return step


def _recsim(num_candidates: int = 100, slate_size: int = 3) -> Callable[[], object]:
    import numpy as np
    from recsim.environments import interest_evolution

    env = interest_evolution.create_environment(
        {"num_candidates": num_candidates, "slate_size": slate_size, "resample_documents": True, "seed": 0}
    )
    env.reset()
    rng = np.random.default_rng(0)

    def step() -> None:
        *_, done, _ = env.step(rng.choice(num_candidates, slate_size, replace=False))
        if done:
            env.reset()

    return step


def steps_per_second(step: Callable[[], object], seconds: float = 2.0) -> float:
    """How often `step` runs in a second, after two runs to warm up."""
    step()
    step()
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count / elapsed


if __name__ == "__main__":
    makers = {"sardine": _sardine, "recsim": _recsim}
    made: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        peer = line.strip()
        made[peer] = made.get(peer) or makers[peer]()
        print(steps_per_second(made[peer]), flush=True)
