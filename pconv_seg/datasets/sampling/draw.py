"""One draw of a training sample, and the random numbers that belong to it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch


class Draw(NamedTuple):
    """What the samplers yield and :class:`DrawnDataset` takes.

    Attributes:
        index: Index of the image in the data set.
        number: Position in the endless sequence of samples of all processes, from 0.
        center: Row and column of the image's pixel that the crop has to contain; None for any crop.
        seed: Seed of the run. Together with ``number`` it decides all random numbers of the sample.
    """

    index: int
    number: int
    center: tuple[int, int] | None = None
    seed: int = 0


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed the global generators of random, numpy and torch (CPU) inside the block only.

    After the block all three continue where they were, so that loading in the training process
    changes nothing for the model.
    """
    # `torch.manual_seed` would seed the GPUs as well.
    generator = torch.default_generator
    states = random.getstate(), np.random.get_state(), generator.get_state()
    words = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    generator.manual_seed(int.from_bytes(words[:2].tobytes(), "little"))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        generator.set_state(states[2])
