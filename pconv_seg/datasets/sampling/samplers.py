"""Endless sequences of draws that any number of processes share and that can start anywhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from pconv_seg.datasets.transforms import RandomScaleCrop

from .centroids import CentroidIndex, centroid_index
from .dataset import DrawnDataset
from .draw import Draw

# Of Cityscapes: those of which the paper's authors take more from the coarse labels.
RARE_CITYSCAPES_CLASSES = ("truck", "bus", "train", "wall", "rider", "motorcycle", "fence")


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """All images in random order, epoch after epoch, without end.

    The order of epoch e follows from the seed and e. Of the endless sequence, process r of W takes
    every W-th draw from the r-th on: so in each iteration, W processes with batches of B see the
    samples that one process with batches of W * B sees.

    Args:
        dataset: A :class:`DrawnDataset`, which mmengine passes.
        seed: Seed of the order and of all augmentation; None for a random one that all
            processes share. mmengine passes that of the run.

    Raises:
        TypeError: The data set is not a :class:`DrawnDataset`.
    """

    def __init__(self, dataset: DrawnDataset, seed: int | None = None) -> None:
        if not isinstance(dataset, DrawnDataset):
            raise TypeError(
                f"{type(self).__name__} yields draws, which {type(dataset).__name__} does not "
                "take: put DrawnDataset around the data set"
            )
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self._start = 0

    def __len__(self) -> int:
        """Samples of an epoch, of all processes together."""
        return len(self.dataset)

    def start_at(self, samples: int) -> None:
        """Begin after as many samples as all processes together have seen.

        The time this takes does not depend on ``samples``.

        Raises:
            ValueError: ``samples`` is negative.
        """
        if samples < 0:
            raise ValueError(f"a sampler starts at sample 0 or later, not {samples}")
        self._start = samples

    def skip(self, num_samples: int) -> None:
        """Begin after as many samples as this process has seen, as mmengine's loops ask for."""
        self.start_at(num_samples * self.world_size)

    def __iter__(self) -> Iterator[Draw]:
        """Yield this process's draws without end."""
        number = self._start + self.rank
        planned = None
        while True:
            epoch, position = divmod(number, len(self))
            if epoch != planned:
                plan, planned = self.plan(epoch).tolist(), epoch
            index, *center = plan[position]
            yield Draw(index, number, tuple(center) if center[0] >= 0 else None, self.seed)
            number += self.world_size

    def plan(self, epoch: int) -> np.ndarray:
        """The draws of an epoch, of all processes.

        Returns:
            np.ndarray: Integers ``[N, 3]``: index of the image, row and column of the pixel that
            the crop has to contain (-1 for any crop).
        """
        return _anywhere(np.random.default_rng([self.seed, epoch]).permutation(len(self)))


@DATA_SAMPLERS.register_module()
class ClassUniformSampler(ResumableSampler):
    """Half of the samples from all images alike, half from all classes alike.

    An epoch has as many samples as there are (fine) images. One half of them, rounded down, is
    shared equally among the classes; the remainder goes to classes drawn at random. Each of these
    samples is a crop that contains a centroid of its class (see :func:`centroid_index`); in an
    epoch, all centroids of a class come up before one comes up again. The other half are random
    crops of random images. Coarse images come up through centroids of ``coarse_classes`` only.
    Classes without any centroid have no share.

    Args:
        dataset: A :class:`DrawnDataset`, which mmengine passes, with :class:`RandomScaleCrop` in
            its pipeline.
        seed: As for :class:`ResumableSampler`.
        tile: Side length of the tiles that have one centroid per class.
        cache: Folder of the centroids; None for the folder of the data.
        coarse_classes: Name or names of the classes that coarse images add to. Without a coarse
            data set they are not used.
        fine_only_after: Epochs after which coarse images are left out; None to keep them.

    Raises:
        TypeError: As for :class:`ResumableSampler`.
        ValueError: The pipeline has no :class:`RandomScaleCrop` directly after its loading steps,
            ``tile`` is not a number of pixels above 0, a coarse class is none of the data's, or
            there are no labels.
        SampleError: Labels cannot be read, and ``on_error`` of the data set is 'raise'.
        PermissionError: As for :func:`centroid_index`.
    """

    def __init__(
        self,
        dataset: DrawnDataset,
        seed: int | None = None,
        tile: int = 1024,
        cache: str | Path | None = None,
        coarse_classes: str | Sequence[str] = RARE_CITYSCAPES_CLASSES,
        fine_only_after: int | None = None,
    ) -> None:
        super().__init__(dataset, seed)
        for reader in dataset.readers:
            # Centroids are places in the file: resizing or flipping before the crop moves them.
            if not isinstance(next(iter(reader.rest), None), RandomScaleCrop):
                raise ValueError(
                    "ClassUniformSampler places crops, but the pipeline of the training data has "
                    "no RandomScaleCrop directly after its loading steps, which would crop there; "
                    "put it in place of RandomResize and RandomCrop, or take ResumableSampler"
                )
        self.fine_only_after = fine_only_after
        classes = dataset.metainfo["classes"]
        fine, *coarse = (
            centroid_index(part, tile, cache, dataset.on_error) for part in dataset.datasets
        )
        self._fine = _by_class(fine, len(classes))
        self._all = list(self._fine)
        if isinstance(coarse_classes, str):  # as --cfg-options reads a single one
            coarse_classes = [coarse_classes]
        for index in coarse:
            unknown = set(coarse_classes).difference(classes)
            if unknown:
                raise ValueError(
                    f"coarse_classes: there is no class {', '.join(sorted(unknown))} among "
                    f"{', '.join(classes)}"
                )
            pools = _by_class(index, len(classes), offset=len(self))
            for name in coarse_classes:
                category = classes.index(name)
                self._all[category] = np.concatenate([self._all[category], pools[category]])

    def __len__(self) -> int:
        """Samples of an epoch, of all processes together: the number of fine images."""
        return len(self.dataset.datasets[0])

    def plan(self, epoch: int) -> np.ndarray:
        """The draws of an epoch, as :meth:`ResumableSampler.plan` gives them."""
        rng = np.random.default_rng([self.seed, epoch])
        fine_only = self.fine_only_after is not None and epoch >= self.fine_only_after
        pools = [pool for pool in (self._fine if fine_only else self._all) if len(pool)]
        uniform = len(self) // 2
        shares = np.full(len(pools), uniform // max(len(pools), 1))
        shares[rng.permutation(len(pools))[: uniform - shares.sum()]] += 1
        draws = [
            np.resize(rng.permutation(pool), (share, 3))
            for pool, share in zip(pools, shares, strict=True)
        ]
        draws.append(_anywhere(rng.permutation(len(self))[: len(self) - shares.sum()]))
        return rng.permutation(np.concatenate(draws))


def _anywhere(images: np.ndarray) -> np.ndarray:
    return np.column_stack([images, np.full((len(images), 2), -1)])


def _by_class(index: CentroidIndex, classes: int, offset: int = 0) -> list[np.ndarray]:
    """Rows of a plan for each class."""
    rows = np.column_stack([index.image + offset, index.center])
    return [rows[index.category == category] for category in range(classes)]
