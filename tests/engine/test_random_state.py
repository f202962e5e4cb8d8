"""All generators go back to where they were."""

import random

import numpy as np
import torch

from pconv_seg.engine.random_state import random_state, set_random_state


def _draws() -> list[float]:
    normal = random.gauss(0, 1), np.random.normal(), torch.randn(()).item()
    return [*normal, random.random(), np.random.uniform(), torch.rand(()).item()]


def test_the_same_numbers_come_again() -> None:
    _draws()  # the second normal number of each pair is kept for later
    state = random_state()
    first = _draws()
    assert _draws() != first
    set_random_state(state)
    assert _draws() == first
