"""Results of an evaluation as data, as tables laid out like the paper's Tables 6 and 7, and CSV."""

import csv
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import mmengine
import mmseg
import numpy as np
import torch
from prettytable import PrettyTable

from pconv_seg.files import atomic_path, short_names
from pconv_seg.geometry import Overlap, Region
from pconv_seg.version import __version__

from .bootstrap import CONFIDENCE, NO_INTERVAL, RESAMPLES, Difference, score_difference
from .confusion import class_accuracy, class_iou, mean_iou, mean_present, pixel_accuracy
from .record import Record


@dataclass(frozen=True)
class Report:
    """Scores of a record, in percent.

    Args:
        record: The counts.
        seed: Of the bootstrap.
    """

    record: Record
    seed: int = 0

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Regions in the order of the counts; the same for all modes."""
        return self.record.plan.regions("regular").regions

    @cached_property
    def _names(self) -> dict[str, str]:
        return short_names(network.checkpoint for network in self.record.tested)

    @cached_property
    def _areas(self) -> np.ndarray:
        return self.record.areas()

    @cached_property
    def _totals(self) -> np.ndarray:
        return self._areas.sum(0)  # [networks, modes, regions, 3, C]

    @cached_property
    def iou(self) -> np.ndarray:
        """``float64[networks, modes, regions, C]``, NaN for absent classes."""
        return 100 * class_iou(self._totals)

    @cached_property
    def miou(self) -> np.ndarray:
        """``float64[networks, modes, regions]``, the mean of the classes that are present."""
        return mean_present(self.iou)

    @cached_property
    def differences(self) -> list[list[Difference]]:
        """Second network minus first, for each mode and region; empty unless there are two."""
        if len(self.record.tested) != 2:
            return []
        return [
            [self._difference(mode, region) for region in range(len(self.regions))]
            for mode in range(len(self.record.plan.modes))
        ]

    def _difference(self, mode: int, region: int) -> Difference:
        difference = score_difference(self._areas[:, :, mode, region], mean_iou, seed=self.seed)
        return Difference(*(100 * value for value in difference))

    def as_dict(self) -> dict:
        """Everything, ready for JSON: scores in percent, null where there is none."""
        cells = list(self._cells())
        return {
            "config": self.record.config,
            "versions": versions(),
            "images": len(self.record.images),
            "results": [cell for cell in cells if "band" not in cell],
            "bands": [cell for cell in cells if "band" in cell],
            "differences": list(self._difference_rows()),
        }

    def _cells(self) -> Iterator[dict]:
        plan = self.record.plan
        accuracy, pixel = class_accuracy(self._totals), pixel_accuracy(self._totals)
        for n, network in enumerate(self.record.tested):
            for m, mode in enumerate(plan.modes):
                for r, region in enumerate(self.regions):
                    cell = (n, m, r)
                    iou = zip(self.record.classes, self.iou[cell], strict=True)
                    yield {
                        **network._asdict(),
                        **self._mode(mode),
                        **self._region(region),
                        "mIoU": json_number(self.miou[cell]),
                        "aAcc": json_number(100 * pixel[cell]),
                        "mAcc": json_number(100 * mean_present(accuracy[cell])),
                        "IoU": {name: json_number(value) for name, value in iou},
                        "pixels": int(self._totals[cell][1].sum()),
                    }

    def _mode(self, mode: str) -> dict:
        plan = self.record.plan
        if mode == "regular":
            return {"mode": mode, "tile": None, "overlap": None}
        return {"mode": mode, "tile": plan.tile, "overlap": _overlap(plan.mode_overlap(mode))}

    def _region(self, region: Region) -> dict:
        if region.kind != "leave_out":
            return {"band": region.kind, "from_pixel": region.start, "to_pixel": region.stop}
        plan = self.record.plan
        return {
            "leave_out": float(region.start),
            "proportion": plan.proportion,
            "region": plan.region,
        }

    def _difference_rows(self) -> Iterator[dict]:
        for mode, row in zip(self.record.plan.modes, self.differences, strict=False):
            for region, difference in zip(self.regions, row, strict=True):
                yield {
                    **self._mode(mode),
                    **self._region(region),
                    "mIoU": json_number(difference.value),
                    "interval": [json_number(difference.low), json_number(difference.high)],
                    "distinguishable": difference.distinguishable,
                    "confidence": CONFIDENCE,
                    "resamples": RESAMPLES,
                    "seed": self.seed,
                }

    def tables(self, per_class: bool = False) -> str:
        """Text tables: mIoU by mode, by leave-out in each mode, by distance, and what is absent."""
        plan, modes = self.record.plan, range(len(self.record.plan.modes))
        parts = [
            self._table(
                "mIoU (%) of the whole image",
                [(self.mode_name(mode), m, 0) for m, mode in enumerate(plan.modes)],
            )
        ]
        for kind, title in (
            ("leave_out", f"by leave-out (share of the {plan.region}'s {plan.proportion})"),
            ("border_distance", "by distance to the image border (pixels)"),
            ("seam_distance", "by distance to the nearest tile seam (pixels)"),
        ):
            columns = [(str(r), i) for i, r in enumerate(self.regions) if r.kind == kind]
            if len(columns) > 1:
                parts += [
                    self._table(
                        f"mIoU (%) {title}: {self.mode_name(plan.modes[m])}",
                        [(name, m, i) for name, i in columns],
                    )
                    for m in modes
                ]
        if per_class:
            parts += [self._class_table(n, m) for m in modes for n in range(len(self.iou))]
        if self.differences:
            parts.append(
                f"diff: second row minus first. * its {CONFIDENCE:.0%} interval (paired bootstrap "
                f"over {len(self.record.images)} images, {RESAMPLES} resamples, seed {self.seed}) "
                "excludes 0."
            )
            if any(np.isnan(d.low) for row in self.differences for d in row):
                parts[-1] += f"\n{NO_INTERVAL}"
        parts += self._absent()
        return "\n\n".join(parts)

    def mode_name(self, mode: str) -> str:
        """A mode with the size and overlap of its tiles."""
        plan = self.record.plan
        overlap = f", overlap {plan.overlap}" if mode == "tile_overlap" else ""
        return mode if mode == "regular" else f"tile {plan.tile_text}{overlap}"

    def _table(self, title: str, columns: list[tuple[str, int, int]]) -> str:
        table = PrettyTable(["checkpoint", "padding", *(name for name, _, _ in columns)])
        table.title = title
        table.align["checkpoint"] = "l"
        for n, network in enumerate(self.record.tested):
            scores = [score_text(self.miou[n, m, r]) for _, m, r in columns]
            table.add_row([self._names[network.checkpoint], network.padding, *scores])
        if self.differences:
            cells = [self.differences[m][r] for _, m, r in columns]
            marks = [score_text(d.value, "+") + " *" * d.distinguishable for d in cells]
            table.add_row(["diff", "", *marks])
            intervals = [
                "none" if np.isnan(d.low) else f"[{d.low:+.3f}, {d.high:+.3f}]" for d in cells
            ]
            table.add_row([f"{CONFIDENCE:.0%} interval", "", *intervals])
        return table.get_string()

    def _class_table(self, n: int, m: int) -> str:
        network = self.record.tested[n]
        columns = [(i, str(r)) for i, r in enumerate(self.regions) if r.kind == "leave_out"]
        table = PrettyTable(["class", *(name for _, name in columns)])
        table.title = (
            f"IoU (%) by leave-out: {self._names[network.checkpoint]} ({network.padding}), "
            f"{self.mode_name(self.record.plan.modes[m])}"
        )
        table.align["class"] = "l"
        for c, name in enumerate(self.record.classes):
            table.add_row([name, *(score_text(self.iou[n, m, i, c]) for i, _ in columns)])
        return table.get_string()

    def _absent(self) -> list[str]:
        lines = []
        for r, region in enumerate(self.regions):
            missing = np.isnan(self.iou[:, :, r])  # [networks, modes, C]
            place = f"{region.kind.replace('_', ' ')} {region}"
            for what, classes in (
                ("absent in some mode, and not in its mean", missing.all(0).any(0)),
                (
                    "in the mean of some checkpoints alone, since the others predict none",
                    (missing.any(0) & ~missing.all(0)).any(0),
                ),
            ):
                if classes.any():
                    names = ", ".join(np.array(self.record.classes)[classes])
                    lines.append(f"{what}: {place}: {names}")
        return ["\n".join(lines)] if lines else []


def score_text(score: float | None, sign: str = "") -> str:
    """A score in a table; ``'absent'`` for None and NaN, where nothing has a score."""
    return "absent" if score is None or np.isnan(score) else f"{score:{sign}.3f}"


def write_csv(report: dict, path: str | Path) -> None:
    """Write the results of :meth:`Report.as_dict`, one row each and one column per class."""
    rows = []
    for result in report["results"]:
        iou = {f"IoU {name}": value for name, value in result["IoU"].items()}
        rows.append({**{k: v for k, v in result.items() if k != "IoU"}, **iou})
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def json_number(value: float) -> float | None:
    """A number for JSON, which has neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "pconv_seg": __version__,
        "mmseg": mmseg.__version__,
        "mmengine": mmengine.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _overlap(overlap: Overlap) -> int | float:
    return overlap if isinstance(overlap, int) else float(Fraction(overlap))
