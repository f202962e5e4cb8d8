"""All counts of a study in one place, and comparisons between them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pconv_seg.engine import PreflightError
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.bootstrap import Difference
from pconv_seg.evaluation.record import Record
from pconv_seg.evaluation.shift_record import ShiftRecord
from pconv_seg.geometry import Region, ShiftRegions

from .evaluation import CROSS, SHIFT, evaluations, has_all, names, read_record, read_shift
from .plan import Study, StudyRun
from .statistics import Contrast, miou_contrast

SHIFT_ROLES = ("border", "interior")
_NOTHING = Contrast((), (), *[Difference(float("nan"), float("nan"), float("nan"))] * 2)


class Cell(NamedTuple):
    """One mIoU, with a value per seed.

    Attributes:
        evaluation: Its name, see :func:`evaluations`.
        padding: In training.
        tested: In the test.
        mode: Of the evaluation's plan.
        region: Its place among the plan's regions; 0 is the whole image, nothing left out.

    In the shift test the modes are ``'border'`` and ``'interior'``, region 0 is all compared
    pixels, and region i is bin i - 1.
    """

    evaluation: str
    padding: str
    tested: str
    mode: str
    region: int = 0


class Results:
    """The counts of a study's runs.

    Args:
        study: Its runs may be unfinished.

    Raises:
        PreflightError: If the runs were trained with another config, nothing is evaluated, an
            evaluation has another plan, fewer paddings or other images, or counts cannot be read.
    """

    def __init__(self, study: Study) -> None:
        study.check_folder()
        self.study = study
        # By evaluation, padding and seed, then by tested padding and mode: [images, regions, 3, C].
        self._areas: dict[tuple[str, str, int], dict[tuple[str, str], np.ndarray]] = {}
        self._cache: dict[tuple, Contrast] = {}
        self.records: dict[str, Record] = {}  # one of each evaluation
        self.shift: dict[tuple[str, int], ShiftRecord] = {}  # by padding and seed
        images = None
        for run in study.runs:
            for name, (plan, paddings) in evaluations(study).items():
                record = read_record(run, name)
                if record is None:
                    continue
                if not has_all(record, plan, paddings):
                    raise PreflightError(
                        f"{run.folder}: {name} was evaluated by another plan, or under fewer "
                        f"paddings, than {study.file} says; first --only evaluate"
                    )
                self.records.setdefault(name, record)
                areas = record.areas()
                self._areas[name, run.padding, run.seed] = {
                    (network.padding, mode): areas[:, n, m]
                    for n, network in enumerate(record.tested)
                    for m, mode in enumerate(record.plan.modes)
                }
                images = _same_images(run, images, record.images)
            found = read_shift(run) if study.shift is not None else None
            if found is not None:
                shift, options = found
                if options != study.shift:
                    raise PreflightError(
                        f"{run.folder}: the shift test was made with {options}, but {study.file} "
                        f"has {study.shift}; first --only evaluate"
                    )
                self.shift[run.padding, run.seed] = shift
                self._areas[SHIFT, run.padding, run.seed] = {
                    (run.padding, role): np.concatenate([bins.sum(1, keepdims=True), bins], axis=1)
                    for role, bins in zip(SHIFT_ROLES, shift.areas, strict=True)
                }
                images = _same_images(run, images, shift.images)
        if not self.records:
            raise PreflightError(
                f"{study.folder}: no run is evaluated yet; first --only train, then --only evaluate"
            )

    @property
    def own_evaluations(self) -> list[str]:
        """Names of the evaluations in which every network is tested as it was trained."""
        return [name for name in self.records if name != CROSS]

    def shift_of(self, padding: str) -> list[ShiftRecord]:
        """The shift tests of all runs with this padding."""
        return [record for (trained, _), record in self.shift.items() if trained == padding]

    @property
    def shift_tiles(self) -> ShiftRegions:
        """Tiles and bins of the shift test, which all runs have in common."""
        return next(iter(self.shift.values())).regions

    def region_numbers(self, evaluation: str, kind: str) -> list[int]:
        """Places of the regions of one kind among those of an evaluation."""
        return [i for i, r in enumerate(self.regions(evaluation)) if r.kind == kind]

    def new_regions(self, evaluation: str, mode: str, kind: str) -> list[int]:
        """Those to show in a mode; none if an earlier evaluation has the same of whole images."""
        if mode not in self.records[evaluation].plan.modes:
            return []
        if mode != "regular":
            return self.region_numbers(evaluation, kind)
        if kind == "seam_distance":  # Whole images have no seams.
            return []
        earlier = self.own_evaluations[: self.own_evaluations.index(evaluation)]
        plans = [self.records[name].plan for name in earlier]
        found = [region_options(plan, kind) for plan in plans if "regular" in plan.modes]
        is_repeated = region_options(self.records[evaluation].plan, kind) in found
        return [] if is_repeated else self.region_numbers(evaluation, kind)

    def is_evaluated(self, run: StudyRun) -> bool:
        """Whether a run has all of the study's evaluations."""
        return all((name, run.padding, run.seed) in self._areas for name in names(self.study))

    def region_names(self, evaluation: str) -> list[str]:
        """Of an evaluation, in the order of the counts."""
        if evaluation == SHIFT:
            edges = self.shift_tiles.edges
            return ["all", *(f"{start}-{stop - 1}" for start, stop in pairwise(edges))]
        return [f"{region.kind} {region}" for region in self.regions(evaluation)]

    def regions(self, evaluation: str) -> tuple[Region, ...]:
        """Of an evaluation other than the shift test."""
        return self.records[evaluation].plan.regions("regular").regions

    def contrast(
        self, weights: Mapping[Cell, float], seeds: Sequence[int] | None = None
    ) -> Contrast:
        """A weighted sum of cells, over the seeds that have all of them.

        Args:
            weights: Of the cells.
            seeds: Only these, such as those of a larger sum that this is part of.
        """
        chosen = tuple(self.study.seeds if seeds is None else seeds)
        key = (*weights.items(), chosen)
        if key not in self._cache:
            self._cache[key] = self._contrast(weights, chosen)
        return self._cache[key]

    def _contrast(self, weights: Mapping[Cell, float], chosen: Sequence[int]) -> Contrast:
        columns, seeds = [], []
        for seed in chosen:
            terms = [self._cell_areas(cell, seed) for cell in weights]
            if all(term is not None for term in terms):
                columns.append(np.stack(terms, axis=1))
                seeds.append(seed)
        if not seeds:
            return _NOTHING
        return miou_contrast(np.stack(columns, axis=1), list(weights.values()), seeds)

    def _cell_areas(self, cell: Cell, seed: int) -> np.ndarray | None:
        of_run = self._areas.get((cell.evaluation, cell.padding, seed), {})
        areas = of_run.get((cell.tested, cell.mode))
        return None if areas is None else areas[:, cell.region]


def region_options(plan: EvaluationPlan, kind: str) -> tuple:
    """The options that decide the regions of a kind on whole images."""
    regions = plan.regions("regular")
    if kind == "border_distance":
        return regions.bands
    tile = regions.tile if regions.region == "tile" else None
    return regions.leave_outs, regions.proportion, regions.region, tile


def _same_images(
    run: StudyRun, expected: tuple[str, ...] | None, found: tuple[str, ...]
) -> tuple[str, ...]:
    if expected not in (None, found):
        raise PreflightError(
            f"{run.folder}: evaluated on other images than other runs; delete the evaluation "
            "folders of all runs and evaluate again"
        )
    return found
