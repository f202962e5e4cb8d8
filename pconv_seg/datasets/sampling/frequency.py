"""How often training sees each class."""

from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmseg.datasets import BaseSegDataset
from prettytable import PrettyTable
from torch.utils.data import DataLoader
from tqdm import tqdm

from .dataset import DrawnDataset
from .samplers import ClassUniformSampler, ResumableSampler


class ClassFrequency(NamedTuple):
    """How often a number of samples show each class.

    Attributes:
        pixels: int64 ``[C]``, number of pixels.
        containing: int64 ``[C]``, number of samples with at least one pixel.
        samples: Number of samples.
    """

    pixels: np.ndarray
    containing: np.ndarray
    samples: int

    @property
    def pixel_percent(self) -> np.ndarray:
        """Share of each class in all labelled pixels, in percent: ``[C]``."""
        return 100 * self.pixels / max(self.pixels.sum(), 1)

    @property
    def sample_percent(self) -> np.ndarray:
        """Share of the samples that contain each class, in percent: ``[C]``."""
        return 100 * self.containing / self.samples


def class_frequency(
    dataset: DrawnDataset, sampler: ResumableSampler, samples: int, num_workers: int
) -> ClassFrequency:
    """Count the classes in the samples that training starts with.

    Args:
        dataset: The training data; its pipeline packs labels as mmseg's do.
        sampler: Its draws.
        samples: How many samples to load.
        num_workers: Processes that load them.
    """
    classes = len(dataset.metainfo["classes"])
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=list(islice(sampler, samples)),
        num_workers=num_workers,
        # In the worker, so that counts travel and not images.
        collate_fn=partial(_count, classes),
    )
    pixels = np.zeros(classes, np.int64)
    containing = np.zeros(classes, np.int64)
    for counts in tqdm(loader, type(sampler).__name__, total=samples, unit="sample"):
        pixels += counts
        containing += counts > 0
    return ClassFrequency(pixels, containing, samples)


def compare_sampling(
    cfg: Config, samples: int, seed: int, num_workers: int
) -> tuple[tuple[str, ...], dict[str, ClassFrequency]]:
    """The class frequencies of a config's training data, with and without class-uniform sampling.

    Args:
        cfg: A config with ``train_dataloader``. Its ``ClassUniformSampler`` is used, or one with
            default arguments if it has another sampler.
        samples: How many samples to load with each.
        seed: Seed of the draws.
        num_workers: Processes that load them.

    Returns:
        The class names, and the frequencies with random images and with class-uniform sampling.

    Raises:
        SampleError: A file cannot be read.
        ValueError: The training data are not a data set of mmseg, or as
            :class:`ClassUniformSampler`.
        PermissionError: As :class:`ClassUniformSampler`.
    """
    data = cfg.train_dataloader.dataset
    dataset = DATASETS.build(data)
    if isinstance(dataset, BaseSegDataset):
        dataset = DrawnDataset(dataset)
    elif not isinstance(dataset, DrawnDataset):
        raise ValueError(
            f"train_dataloader.dataset: {type(dataset).__name__} is no data set of mmseg; name the "
            "one inside it with --cfg-options train_dataloader.dataset.type=..."
        )
    sampler = cfg.train_dataloader.get("sampler") or {}
    cls = sampler.get("type")
    if (DATA_SAMPLERS.get(cls) if isinstance(cls, str) else cls) is not ClassUniformSampler:
        sampler = dict(type="ClassUniformSampler")
    fine = DrawnDataset(dataset.datasets[0], on_error=dataset.on_error)
    plain = ResumableSampler(fine, seed)
    uniform = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
    return dataset.metainfo["classes"], {
        "random images": class_frequency(fine, plain, samples, num_workers),
        "class-uniform": class_frequency(dataset, uniform, samples, num_workers),
    }


def frequency_table(classes: tuple[str, ...], found: dict[str, ClassFrequency]) -> PrettyTable:
    """Percent of pixels and of samples that show each class."""
    table = PrettyTable(align="r")
    table.add_column("class", classes, align="l")
    for measure in ("pixel", "sample"):
        for name, frequency in found.items():
            column = getattr(frequency, f"{measure}_percent")
            table.add_column(f"% of {measure}s, {name}", [f"{value:.2f}" for value in column])
    return table


def _count(classes: int, sample: dict) -> np.ndarray:
    label = sample["data_samples"].gt_sem_seg.data.numpy()
    return np.bincount(label.ravel(), minlength=classes)[:classes]
