"""What a study's report says: tables and sentences, all from the runs' files."""

import hashlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from pconv_seg.evaluation.bootstrap import CONFIDENCE, FEWEST_IMAGES, RESAMPLES
from pconv_seg.evaluation.report import json_number
from pconv_seg.evaluation.shift_record import TOLERANCES
from pconv_seg.evaluation.shift_tables import tolerance_text

from .curves import reached_iteration, read_scalars, training_curves
from .evaluation import CROSS, SHIFT, read_reasons, unevaluated
from .findings import (
    findings,
    gap,
    interval_text,
    rounded,
    shift_cost,
    shift_gap,
    signed,
    where,
    whole_areas,
)
from .plan import BASELINE, StudyRun
from .results import Cell, Results
from .start import read_start
from .statistics import BOOTSTRAP_SEED, Contrast, sample_sd
from .training import exit_name, read_state

_KINDS = {
    "border_distance": "pixels to the image border",
    "seam_distance": "pixels to the nearest tile seam",
}

Table = list[list[str]]
Column = tuple[str, str, str, int]
"""Title, evaluation, mode and region."""


class Contents:
    """Tables and sentences of one study.

    Attributes:
        context: What the template of the page takes.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._study = results.study
        self._states = {run: read_state(run) for run in self._study.runs}
        named = {run.folder for run in self._study.runs}
        found = sorted((self._study.folder / "runs").glob("*/run.json"))
        self._left_out = [path.parent.name for path in found if path.parent not in named]
        self._findings = findings(results)
        # By kind and terms: several tables show region 0, and it counts once.
        self._shown: dict[tuple[str, tuple[tuple[Cell, float], ...]], Contrast] = {}
        self.context = self._context()

    def _context(self) -> dict[str, Any]:
        whole = [(title, *place, 0) for title, place in whole_areas(self._results).items()]
        context = {
            "name": self._study.file.stem,
            "status": self._status(),
            "findings": [
                {**f._asdict(), "number": self._number(f.contrast)} for f in self._findings
            ],
            "resamples": RESAMPLES,
            "bootstrap_seed": BOOTSTRAP_SEED,
            "fewest_images": FEWEST_IMAGES,
            "setup": list(self._setup()),
            "runs": self._runs(),
            "start": self._start(),
            "command": self._command(),
            "failures": [
                {
                    "name": run.name,
                    "status": state["status"],
                    "tail": "\n".join(state["log_tail"]),
                }
                for run, state in self._states.items()
                if "log_tail" in state
            ],
            "unevaluated": unevaluated(self._study),
            "convergence": self._convergence(),
            "scores": self._table(whole),
            "differences": self._table(whole, differences=True),
            "leave_outs": self._blocks("leave_out"),
            "distances": self._blocks("border_distance") + self._blocks("seam_distance"),
            "cross": self._cross(),
            "shift": self._shift(),
            "pattern": self._pattern(),
            "fewest_seeds": self._fewest_seeds(),
        }
        differences = [
            contrast
            for (kind, _), contrast in self._shown.items()
            if kind == "difference" and not math.isnan(contrast.over_seeds.low)
        ]
        context["comparisons"] = len(differences)
        context["expected_by_chance"] = f"{(1 - CONFIDENCE) * len(differences):.1f}"
        return context

    def as_dict(self) -> dict:
        """Everything that the page shows, ready for JSON; scores in percent."""
        return {
            "study": str(self._study.file),
            "runs": [self._run_dict(run, state) for run, state in self._states.items()],
            "runs_left_out": self._left_out,
            "findings": [
                {**f._asdict(), "contrast": _contrast_dict(f.contrast)} for f in self._findings
            ],
            "cells": [
                {
                    "kind": kind,
                    "terms": [
                        {
                            **cell._asdict(),
                            "region": self._results.region_names(cell.evaluation)[cell.region],
                            "weight": weight,
                        }
                        for cell, weight in terms
                    ],
                    **_contrast_dict(contrast),
                }
                for (kind, terms), contrast in self._shown.items()
            ],
        }

    def _run_dict(self, run: StudyRun, state: dict) -> dict:
        losses, scores = training_curves(run.folder)
        shift = self._results.shift.get((run.padding, run.seed))
        return {
            "name": run.name,
            **state,
            "start": read_start(run.folder),
            "iterations": reached_iteration(run.folder),
            "seconds_per_iteration": _seconds_per_iteration(run),
            "training_loss": {step: json_number(loss) for step, loss in losses.items()},
            "validation_mIoU": {step: json_number(score) for step, score in scores.items()},
            "not_evaluated": read_reasons(self._study, run),
            "shift_test": shift and shift.as_dict(),
        }

    # --- What was done --------------------------------------------------------------------------

    def _status(self) -> str:
        counts = Counter(state["status"] for state in self._states.values())
        total = len(self._states)
        text = f"{counts['finished']} of {total} runs finished."
        unfinished = [
            f"{run.name} ({state['status']})"
            for run, state in self._states.items()
            if state["status"] != "finished"
        ]
        if unfinished:
            text += f" **Not finished: {', '.join(unfinished)}.**"
        missing = [run.name for run in self._states if not self._results.is_evaluated(run)]
        if missing:
            text += (
                f" **Not fully evaluated: {', '.join(missing)}**; no score below includes what is "
                "missing."
            )
        if self._left_out:
            text += (
                f" **Left out: {', '.join(self._left_out)}**, which `runs/` has, but the study "
                "file does not name."
            )
        return text

    def _setup(self) -> Iterable[str]:
        study, config = self._study, self._study.config
        record = next(iter(self._results.records.values()))
        train = config.train_dataloader
        heads = config.model.decode_head
        heads = heads if isinstance(heads, list) else [heads]  # of a CascadeEncoderDecoder
        yield (
            f"Study file `{study.file}`: {config.model.backbone.type} with "
            f"{' and '.join(head.type for head in heads)}, every padded convolution switched to "
            "the padding that is named."
        )
        yield (
            f"Budget: {study.max_iters} iterations of {train.batch_size} images each, the same for "
            f"all runs; paddings: {', '.join(study.paddings)}; seeds: "
            f"{', '.join(map(str, study.seeds))}. The last checkpoint counts."
        )
        yield (
            f"Data: {config.test_dataloader.dataset.type}; images evaluated: "
            f"{len(record.images)}; classes: {len(record.classes)}."
        )
        machines = Counter(
            json.dumps(state["machine"], sort_keys=True)
            for state in self._states.values()
            if "machine" in state
        )
        for text, number in machines.items():
            machine = json.loads(text)
            versions = ", ".join(f"{k} {v}" for k, v in sorted(machine["versions"].items()))
            commit = f"; commit {machine['commit']}" if machine.get("commit") else ""
            yield (
                f"Machine (runs: {number}): {machine['cpu']}, {machine['cores']} cores, "
                f"{', '.join(machine['gpus']) or 'no GPU'}; runs at a time: {machine['jobs']}, "
                f"threads of each: {machine['threads']}; {machine['system']}; {versions}{commit}."
            )
        seconds = [_seconds(state) for state in self._states.values()]
        yield (
            "Training time of all attempts together whose end was recorded: "
            f"{_duration(sum(seconds))} (h:mm:ss)."
        )

    def _runs(self) -> Table:
        rows = []
        for run, state in self._states.items():
            losses, scores = training_curves(run.folder)
            pace = _seconds_per_iteration(run)
            attempts = state["attempts"]
            rows.append(
                {
                    "run": run.name,
                    "status": state["status"],
                    "iterations": f"{reached_iteration(run.folder)} of {self._study.max_iters}",
                    "attempts": ", ".join(f"from {a['from_iteration']}" for a in attempts) or "-",
                    "exit codes": ", ".join(map(_exit_code, attempts)) or "-",
                    "time": _duration(_seconds(state)),
                    "s/iteration": "-" if pace is None else f"{pace:.3f}",
                    "last loss": f"{list(losses.values())[-1]:.3f}" if losses else "-",
                    "last validation mIoU": f"{list(scores.values())[-1]:.2f}" if scores else "-",
                    "start": _start_name(run) or "-",
                }
            )
        return [list(rows[0]), *(list(row.values()) for row in rows)]

    def _start(self) -> str:
        differing = [
            str(seed)
            for seed in self._study.seeds
            if len({_start_name(run) for run in self._study.runs if run.seed == seed} - {""}) > 1
        ]
        if differing:
            return f"**the runs of seed {', '.join(differing)} did not start alike.**"
        runs = self._study.runs
        known = sum(bool(_start_name(run)) for run in runs)
        if not known:
            return "none was kept."
        same = "within every seed it is the same for all paddings."
        if known == len(runs):
            return same
        return f"it is known for {known} of {len(runs)} runs, and there {same}"

    def _command(self) -> str:
        # The number of jobs is what most runs were trained with: this call may have trained none.
        jobs = Counter(s["machine"]["jobs"] for s in self._states.values() if "machine" in s)
        words = ["python", "tools/study.py", self._study.file, "--work-dir", self._study.folder]
        number = jobs.most_common(1)[0][0] if jobs else 1
        return shlex.join(map(str, [*words, "--jobs", number]))

    def _convergence(self) -> dict[str, Any]:
        curves = {run: training_curves(run.folder)[1] for run in self._study.runs}
        steps = sorted(set().union(*curves.values()))
        rows = [["validation mIoU (%) at iteration", *map(str, steps)]]
        for padding in self._study.paddings:
            of_padding = [curve for run, curve in curves.items() if run.padding == padding]
            by_step = [[curve[s] for curve in of_padding if s in curve] for s in steps]
            rows.append([padding, *(self._spread(values) for values in by_step)])
        if len(steps) < 2:
            return {"text": "There are not yet two validations.", "table": rows}
        before, last = steps[-2:]
        changes = [c[last] - c[before] for c in curves.values() if before in c and last in c]
        if not changes:
            return {"text": "No run has both of the last two validations.", "table": rows}
        text = (
            f"From iteration {before} to {last} the validation mIoU changed by "
            f"{signed(np.mean(changes))} percentage points in the mean (runs: {len(changes)}; "
            f"{signed(min(changes))} to {signed(max(changes))}). A flat end says that this "
            "schedule has run out, not that a longer one would bring nothing."
        )
        return {"text": text, "table": rows}

    # --- Scores ---------------------------------------------------------------------------------

    def _table(self, columns: Sequence[Column], differences: bool = False) -> Table:
        """One row per padding: its scores, or their differences from those of zero padding."""

        def cell(padding: str, name: str, mode: str, region: int) -> str:
            if differences:
                return self._difference(gap(name, mode, region, padding))
            return self._score({Cell(name, padding, padding, mode, region): 1.0})

        corner = f"padding minus {BASELINE}" if differences else "padding"
        paddings = self._study.compared if differences else self._study.paddings
        rows = ([p, *(cell(p, *column) for _, *column in columns)] for p in paddings)
        return [[corner, *(title for title, *_ in columns)], *rows]

    def _score(self, weights: dict[Cell, float]) -> str:
        return self._spread(self._show("score", weights).values)

    def _difference(self, weights: dict[Cell, float]) -> str:
        return self._number(self._show("difference", weights))

    def _number(self, contrast: Contrast) -> str:
        """A difference with its intervals over seeds and over images; bold where it is settled."""
        if math.isnan(contrast.mean):
            return "-"
        value = signed(contrast.mean)
        value = f"**{value}**" if contrast.settled else value
        intervals = f"{interval_text(contrast.over_seeds)} {interval_text(contrast.over_images)}"
        return f"{value} {intervals}{self._share(contrast.seeds)}"

    def _spread(self, values: Sequence[float]) -> str:
        """Mean and standard deviation of one value per seed."""
        if not values or math.isnan(np.mean(values)):
            return "-"
        spread = f" ± {sample_sd(values):.2f}" if len(values) > 1 else ""
        return f"{rounded(np.mean(values))}{spread}{self._share(values)}"

    def _share(self, found: Sequence[float]) -> str:
        total = len(self._study.seeds)
        return f" ({len(found)} of {total} seeds)" if len(found) < total else ""

    def _show(self, kind: str, weights: dict[Cell, float]) -> Contrast:
        contrast = self._results.contrast(weights)
        self._shown[kind, tuple(weights.items())] = contrast
        return contrast

    def _blocks(self, kind: str) -> list[dict[str, Any]]:
        """Two tables for each mode of each plan; the same regions of whole images only once."""
        blocks, whole = {}, whole_areas(self._results)
        for name in self._results.own_evaluations:
            regions = self._results.regions(name)
            for mode in self._results.records[name].plan.modes:
                numbers = self._results.new_regions(name, mode, kind)
                if not numbers:
                    continue
                title = where(self._results, name, mode)
                columns = [
                    (str(regions[i]), *((name, mode) if i else whole[title]), i) for i in numbers
                ]
                plan = self._results.records[name].plan
                if kind == "leave_out" and (plan.region, plan.proportion) != ("image", "side"):
                    title += f", share of the {plan.region}'s {plan.proportion}"
                if title in blocks:
                    title += f", regions of {name}"
                blocks[title] = {
                    "title": title if kind == "leave_out" else f"By {_KINDS[kind]}, {title}",
                    "scores": self._table(columns),
                    "differences": self._table(columns, differences=True),
                }
        return list(blocks.values())

    def _cross(self) -> list[dict[str, Any]]:
        if CROSS not in self._results.records:
            return []
        paddings = self._study.paddings
        header = ["trained with", *(f"tested with {padding}" for padding in paddings)]
        blocks = []
        for mode in self._results.records[CROSS].plan.modes:
            place = where(self._results, CROSS, mode)
            scores, changes = [header], [header]
            for trained in paddings:
                cells = [Cell(CROSS, trained, tested, mode) for tested in paddings]
                own = Cell(CROSS, trained, trained, mode)
                scores.append([trained, *(self._score({cell: 1.0}) for cell in cells)])
                changed = [
                    "0" if cell == own else self._difference({cell: 1.0, own: -1.0})
                    for cell in cells
                ]
                changes.append([trained, *changed])
            blocks += [
                {"title": f"mIoU (%) {place}", "table": scores},
                {"title": f"Change by another padding in the test, {place}", "table": changes},
            ]
        return blocks

    def _shift(self) -> dict[str, Any] | None:
        if not self._results.shift:
            return None
        names = self._results.region_names(SHIFT)
        paddings = self._study.paddings
        tile = self._results.shift_tiles.tile
        regions = range(len(names))
        costs = [["pixels to the seam", *names]]
        for padding in paddings:
            costs.append([padding, *(self._score(shift_cost(padding, i)) for i in regions)])
        gaps = [[f"cost minus that with {BASELINE}", *names]]
        for padding in self._study.compared:
            gaps.append([padding, *(self._difference(shift_gap(padding, i)) for i in regions)])
        overlaps = [["padding", "predictions differ (%)", *map(tolerance_text, TOLERANCES)]]
        for padding in paddings:
            records = self._results.shift_of(padding)
            differ = [100 * (1 - r.agreeing.sum() / r.pixels.sum()) for r in records]
            enough = [[r.overlap(tolerance) for r in records] for tolerance in TOLERANCES]
            overlaps.append([padding, self._spread(differ), *map(_overlaps, enough)])
        return {
            "tile": " x ".join(map(str, tile)),
            "costs": costs,
            "gaps": gaps,
            "overlaps": overlaps,
            "largest": 2 * self._results.shift_tiles.edges[-2],
        }

    def _pattern(self) -> Table:
        rows = (
            [f.question, f.paper or "-", self._number(f.contrast), f.measured, f.verdict]
            for f in self._findings
        )
        return [["question", "paper", "here", "what is measured", "answer"], *rows]

    def _fewest_seeds(self) -> int | None:
        """Among findings that have a standard deviation over seeds; None if there are none."""
        counts = [len(f.contrast.seeds) for f in self._findings]
        return min((count for count in counts if count > 1), default=None)


def _overlaps(pixels: Sequence[int | None]) -> str:
    return ", ".join("none" if p is None else f"{p} px" for p in pixels) or "-"


def _start_name(run: StudyRun) -> str:
    start = read_start(run.folder)
    if not start:
        return ""
    return hashlib.sha256(json.dumps(start, sort_keys=True).encode()).hexdigest()[:8]


def _exit_code(attempt: dict) -> str:
    # None: the process that would have recorded it was killed itself.
    return "unknown" if attempt["exit_code"] is None else exit_name(attempt["exit_code"])


def _seconds_per_iteration(run: StudyRun) -> float | None:
    """Median of the training log; None if nothing is logged."""
    times = [r["time"] for r in read_scalars(run.folder) if "loss" in r and "time" in r]
    return median(times) if times else None


def _seconds(state: dict) -> float:
    return sum(attempt["seconds"] or 0 for attempt in state["attempts"])


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _contrast_dict(contrast: Contrast) -> dict:
    return {
        "seeds": list(contrast.seeds),
        "values": [json_number(value) for value in contrast.values],
        "mean": json_number(contrast.mean),
        "sd": json_number(contrast.sd),
        "over_seeds": [json_number(bound) for bound in contrast.over_seeds[1:]],
        "over_images": [json_number(bound) for bound in contrast.over_images[1:]],
        "joint": [json_number(bound) for bound in contrast.joint[1:]],
        "settled": contrast.settled,
    }
