"""Seeds for libraries that draw from global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seeds the global generators of random, numpy and torch; puts their former states back at the end of the block."""
    states = generator_states()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            set_generators(states)


def generator_states() -> tuple[Any, Any, torch.Tensor]:
    """Where the global generators of random, numpy and torch stand."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def set_generators(states: tuple[Any, Any, torch.Tensor]) -> None:
    """Puts the global generators where `generator_states` found them."""
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
