"""Cityscapes by splits over cities, with fine or coarse annotations."""

import copy
import logging
import os.path as osp
from typing import Any

from mmengine import fileio
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmseg.datasets import CityscapesDataset

from .cities import BLACK_FRAME, COARSE_CITIES, split_cities

_FOLDERS = {"fine": "gtFine", "coarse": "gtCoarse"}


@DATASETS.register_module()
class CityscapesSplitDataset(CityscapesDataset):
    """Cityscapes whose validation cities depend on the split (Zhu et al., arXiv 1812.01593).

    ``data_root`` holds the published folders ``leftImg8bit/{train,val,test,train_extra}/CITY`` and
    ``gtFine/{train,val}/CITY`` or ``gtCoarse/train_extra/CITY`` with ``*_labelTrainIds.png``, which
    ``tools/prepare_cityscapes.py`` writes. Splits 1 and 2 take cities from these folders by name,
    so no file moves. Split 0 and the coarse annotations take the folders as they are, as mmseg's
    ``CityscapesDataset`` does: all of their images, with a warning if published cities are absent.
    Validation cities by split:

    - 0, the usual one: frankfurt, lindau, munster (500 images)
    - 1: darmstadt, dusseldorf, erfurt (415 images)
    - 2: monchengladbach, strasbourg, stuttgart (655 images)

    The other 18 of the 21 finely annotated cities are for training. The coarsely annotated images
    are of 23 more cities, so all 19997 (one more is black) are for training with every split.

    Args:
        split: 0 (the usual one), 1 or 2.
        part: ``train`` or ``val``; or ``test``, images without labels.
        annotations: ``fine`` or ``coarse``; the latter with ``part='train'`` only.
        data_prefix: Folders of images and labels below ``data_root``, if they have other names.
        **kwargs: Those of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        ValueError: ``split``, ``part`` or ``annotations`` is none of these, or they do not go
            together.
        FileNotFoundError: A city of split 1 or 2 has no image, or there is no image at all.
    """

    def __init__(
        self,
        split: int = 0,
        part: str = "train",
        annotations: str = "fine",
        data_prefix: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if annotations not in _FOLDERS:
            raise ValueError(f"annotations {annotations!r} is not one of {', '.join(_FOLDERS)}")
        if annotations == "coarse" and part != "train":
            raise ValueError(f"coarse annotations are for part 'train' only, not {part!r}")
        self._cities = split_cities(split, part)
        if annotations == "coarse":
            self._cities = [("train_extra", city) for city in COARSE_CITIES]
        self._whole_folder = split == 0 or annotations == "coarse"
        folder = _FOLDERS[annotations]
        if data_prefix is None:
            data_prefix = dict(img_path="leftImg8bit", seg_map_path=folder)
        if part == "test":
            data_prefix = {"img_path": data_prefix["img_path"]}
        kwargs.setdefault("seg_map_suffix", f"_{folder}_labelTrainIds.png")
        super().__init__(data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """mmseg's list of the images, sorted by path."""
        cities = ["/".join(city) for city in self._cities]
        places = {city.partition("/")[0] for city in cities} if self._whole_folder else cities
        data_list = [info for place in places for info in self._list(place)]
        found = {"/".join(info["img_path"].split("/")[-3:-1]) for info in data_list}
        lacking = [city for city in cities if city not in found]
        if lacking:
            message = (
                f"{self.data_prefix['img_path']} has no image *{self.img_suffix} of {len(lacking)} "
                f"of {len(cities)} cities: {', '.join(lacking)}"
            )
            if not (self._whole_folder and data_list):
                raise FileNotFoundError(message)
            print_log(message, logger="current", level=logging.WARNING)
        return sorted(data_list, key=lambda info: info["img_path"])

    def _list(self, place: str) -> list[dict]:
        part = copy.copy(self)
        part.data_prefix = {
            key: osp.join(prefix, place) for key, prefix in self.data_prefix.items()
        }
        if not fileio.isdir(part.data_prefix["img_path"], backend_args=self.backend_args):
            return []
        infos = super(CityscapesSplitDataset, part).load_data_list()
        return [info for info in infos if BLACK_FRAME not in osp.basename(info["img_path"])]
