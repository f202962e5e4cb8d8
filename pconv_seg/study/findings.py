"""Does what was measured have the pattern of the paper? Sentences made from numbers."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from pconv_seg.evaluation.bootstrap import Difference

from . import paper
from .evaluation import CROSS, SHIFT
from .plan import BASELINE
from .results import SHIFT_ROLES, Cell, Results
from .statistics import MAX_SEEDS, Contrast, seeds_needed

METHOD = "partial"
MODE_NAMES = {
    "regular": "on whole images",
    "tile": "on tiles side by side",
    "tile_overlap": "on overlapping tiles",
}


class Finding(NamedTuple):
    """One question that a number above 0 answers with yes, as the paper's figures do.

    Attributes:
        question: Plain words.
        measured: What the number is, and what it is in this study.
        paper: What it is in the paper; None if it is not there.
        contrast: The number.
        verdict: Yes, no, or not settled, and why.
        needed: What would settle it.
    """

    question: str
    measured: str
    paper: str | None
    contrast: Contrast
    verdict: str
    needed: str


def findings(results: Results) -> list[Finding]:
    """The paper's pattern, question by question; empty unless zeros and partial are compared."""
    return list(_findings(results)) if METHOD in results.study.compared else []


def gap(evaluation: str, mode: str, region: int, padding: str = METHOD) -> dict[Cell, float]:
    """Weights of a padding's mIoU minus that of zero padding, each tested as trained."""
    return {
        Cell(evaluation, padding, padding, mode, region): 1.0,
        Cell(evaluation, BASELINE, BASELINE, mode, region): -1.0,
    }


def shift_cost(padding: str, region: int = 0) -> dict[Cell, float]:
    """Weights of what the seam costs the same pixels: mIoU as interior minus as border."""
    return {
        Cell(SHIFT, padding, padding, role, region): weight
        for role, weight in zip(SHIFT_ROLES, (-1.0, 1.0), strict=True)
    }


def shift_gap(padding: str, region: int = 0) -> dict[Cell, float]:
    """Weights of the cost with a padding minus that with zero padding."""
    return _minus(shift_cost(padding, region), shift_cost(BASELINE, region))


def whole_areas(results: Results) -> dict[str, tuple[str, str]]:
    """Evaluation and mode of all scores with nothing left out, by :func:`where`.

    Whole images, which do not depend on the tile size, are there only once.
    """
    found = {}
    for name in results.own_evaluations:
        for mode in results.records[name].plan.modes:
            found.setdefault(where(results, name, mode), (name, mode))
    return found


def _minus(first: dict[Cell, float], second: dict[Cell, float]) -> dict[Cell, float]:
    """Weights of a difference; no cell is in both."""
    return first | {cell: -weight for cell, weight in second.items()}


def _findings(results: Results) -> Iterator[Finding]:
    names = results.own_evaluations
    for name, mode in whole_areas(results).values():
        yield _better(results, name, mode)
    for name in names:
        if "tile" in results.records[name].plan.modes:
            yield from _growth(results, name)
    for name in names:
        if {"regular", "tile"} <= set(results.records[name].plan.modes):
            yield _tiling(results, name)
    if CROSS in results.records:
        yield _across(results)
    if results.shift:
        contrast, zero, partial = _difference(results, shift_cost(BASELINE), shift_cost(METHOD))
        yield _finding(
            "Does a seam cost the same pixels more with zero than with partial padding?",
            f"mIoU as interior minus as border in the shift test, with zero ({zero}) minus with "
            f"partial padding ({partial})",
            None,
            contrast,
        )


def _better(results: Results, name: str, mode: str) -> Finding:
    contrast = results.contrast(gap(name, mode, 0))
    zero, partial, change = paper.BY_MODE[mode]
    in_paper = f"{change:+.3f} ({zero:.3f} to {partial:.3f})"
    if mode == "regular":
        changes = [after - before for before, after in paper.WHOLE_IMAGES]
        in_paper = (
            f"{min(changes):+.2f} to {max(changes):+.2f} (Table 5, four comparisons, 3 runs each); "
            f"{change:+.3f} (Table 6)"
        )
    place = where(results, name, mode)
    return _finding(
        f"Is partial padding better than zero padding {place}?",
        f"mIoU with partial minus with zero padding, {place}",
        in_paper,
        contrast,
    )


def _growth(results: Results, name: str) -> Iterator[Finding]:
    regions = results.regions(name)
    leave_outs = results.region_numbers(name, "leave_out")
    if len(leave_outs) < 2:
        return
    last = leave_outs[-1]
    contrast, end, start = _difference(results, gap(name, "tile", last), gap(name, "tile", 0))
    place = where(results, name, "tile")
    plan = results.records[name].plan
    whole = "each side" if plan.proportion == "side" else "the area"
    in_paper = (
        f"{paper.LEAVE_OUT_GAPS[-1] - paper.LEAVE_OUT_GAPS[0]:+.3f} "
        f"({paper.LEAVE_OUT_GAPS[0]:+.3f} to {paper.LEAVE_OUT_GAPS[-1]:+.3f})"
    )
    if plan.region == "tile":  # in the paper it is the image that has a centre
        whole, in_paper = f"{whole} of every tile", None
    yield _finding(
        f"Does the gap between partial and zero padding grow with leave-out, {place}?",
        f"the gap where {regions[last]} of {whole} is left out ({end}) minus the gap where nothing "
        f"is ({start})",
        in_paper,
        contrast,
    )


def _tiling(results: Results, name: str) -> Finding:
    losses = [
        {Cell(name, padding, padding, "regular"): 1.0, Cell(name, padding, padding, "tile"): -1.0}
        for padding in (BASELINE, METHOD)
    ]
    contrast, zero_loss, partial_loss = _difference(results, *losses)
    zero, partial, whole_gap = paper.BY_MODE["regular"]
    zero_tile, partial_tile, tile_gap = paper.BY_MODE["tile"]
    return _finding(
        f"Does tiling cost zero padding more than partial padding, {where(results, name, 'tile')}?",
        f"what zero padding loses from whole images to tiles ({zero_loss}) minus what partial "
        f"padding loses ({partial_loss})",
        f"{tile_gap - whole_gap:+.3f} "
        f"({zero - zero_tile:+.3f} and {partial - partial_tile:+.3f}: tiles gain there)",
        contrast,
    )


def _across(results: Results) -> Finding:
    mode = results.records[CROSS].plan.modes[0]
    kept = {p: Cell(CROSS, p, p, mode) for p in (BASELINE, METHOD)}
    moved = {a: Cell(CROSS, a, b, mode) for a, b in ((BASELINE, METHOD), (METHOD, BASELINE))}
    losses = [{kept[p]: 1.0, moved[p]: -1.0} for p in (BASELINE, METHOD)]
    contrast, zero_loss, partial_loss = _difference(results, *losses)
    return _finding(
        "Is it worse to test a network trained with zero padding under partial padding than the "
        f"reverse, {MODE_NAMES[mode]}?",
        f"what zero -> partial loses ({zero_loss}) minus what partial -> zero loses "
        f"({partial_loss})",
        f"{paper.ZERO_TO_PARTIAL_LOSS - paper.PARTIAL_TO_ZERO_LOSS:+.2f} in ImageNet top-1 of "
        f"ResNet50 ({paper.ZERO_TO_PARTIAL_LOSS:+.2f} and {paper.PARTIAL_TO_ZERO_LOSS:+.2f})",
        contrast,
    )


def rounded(value: float, sign: str = "") -> str:
    """With two decimals, and ``-`` for NaN."""
    return "-" if math.isnan(value) else f"{round(float(value), 2) + 0.0:{sign}.2f}"  # never -0.00


def signed(value: float) -> str:
    """The same with its sign."""
    return rounded(value, "+")


def where(results: Results, name: str, mode: str) -> str:
    """A mode in words, with the size of its tiles."""
    plan = results.records[name].plan
    if mode == "regular":
        return MODE_NAMES[mode]
    overlap = f", overlap {plan.overlap}" if mode == "tile_overlap" else ""
    return f"{MODE_NAMES[mode]} ({plan.tile_text} px{overlap})"


def _difference(
    results: Results, first: dict[Cell, float], second: dict[Cell, float]
) -> tuple[Contrast, str, str]:
    """First minus second, and the mean of each over the same seeds."""
    contrast = results.contrast(_minus(first, second))
    means = (signed(results.contrast(part, contrast.seeds).mean) for part in (first, second))
    return contrast, *means


def _finding(question: str, measured: str, in_paper: str | None, contrast: Contrast) -> Finding:
    answer = verdict(contrast, in_paper is not None)
    return Finding(question, measured, in_paper, contrast, answer, needed(contrast))


def verdict(contrast: Contrast, in_paper: bool = True) -> str:
    """Is the number above 0?

    Args:
        contrast: The number.
        in_paper: Whether the paper has it, above 0.
    """
    same, other = (", as in the paper", ", unlike the paper") if in_paper else ("", "")
    if not contrast.seeds:
        return "No answer: no seed has all the runs that it takes."
    if math.isnan(contrast.mean):
        return "No answer: a score is missing, since no class occurs there."
    seeds, images, joint = contrast.over_seeds, contrast.over_images, contrast.joint
    if contrast.settled:
        answer = f"Yes{same}" if contrast.mean > 0 else "No, the opposite"
        return f"{answer}: the joint interval is {interval_text(joint)}."
    side = "0"
    if contrast.mean:
        side = f"above 0{same}" if contrast.mean > 0 else f"below 0{other}"
    if len(contrast.seeds) == 1:
        reason = "one seed says nothing about the chance in training"
    elif math.isnan(images.low):
        reason = "these images give no interval"
    elif seeds.distinguishable and images.distinguishable:
        reason = f"each interval excludes 0, but not the joint one, {interval_text(joint)}"
    elif seeds.distinguishable:
        reason = "the interval over seeds excludes 0, that over images does not"
    elif images.distinguishable:
        reason = "the interval over images excludes 0, that over seeds does not"
    else:
        reason = "neither interval excludes 0"
    return f"Not settled: the figure is {side}; {reason}."


def needed(contrast: Contrast) -> str:
    """What would settle it, from the spread that was seen."""
    if contrast.settled:
        return "Settled for this network, data and budget."
    if len(contrast.seeds) < 2:
        return "At least two seeds of all the runs that it takes."
    if math.isnan(contrast.mean):
        return "Images with classes there."
    return (
        "If the effect and the spread are as seen (seeds: standard deviation "
        f"{contrast.sd:.2f}): {_ways(contrast)}."
    )


def _ways(contrast: Contrast) -> str:
    """How many seeds, or images, would settle what several seeds leave open."""
    # Only the side towards 0 counts: intervals over images are not symmetric.
    by_seeds, by_images = (
        abs(contrast.mean - (low if contrast.mean > 0 else high))
        for _, low, high in (contrast.over_seeds, contrast.over_images)
    )
    if math.isnan(by_images):
        enough = "images enough for an interval, which these do not give"
        if contrast.over_seeds.distinguishable:
            return enough
        return f"{_seeds_text(contrast.sd, contrast.mean)} and {enough}"
    ways = []
    # What the other interval leaves of the distance to 0.
    if by_images < abs(contrast.mean):
        left = math.sqrt(contrast.mean**2 - by_images**2)
        ways.append(f"{_seeds_text(contrast.sd, left)} on these images")
    if by_seeds < abs(contrast.mean):
        left = math.sqrt(contrast.mean**2 - by_seeds**2)
        ways.append(f"{_images_text(by_images, left)} with these seeds")
    if ways:
        return ", or ".join(ways)
    # Neither leaves anything: both must narrow.
    half = contrast.mean / math.sqrt(2)
    return f"{_seeds_text(contrast.sd, half)} and {_images_text(by_images, half)}"


def interval_text(interval: Difference) -> str:
    """Both bounds in brackets, ``[none]`` for NaN."""
    if math.isnan(interval.low):
        return "[none]"
    return f"[{signed(interval.low)}, {signed(interval.high)}]"


def _seeds_text(sd: float, effect: float) -> str:
    number = seeds_needed(sd, effect)
    return f"about {number} seeds" if number else f"more than {MAX_SEEDS} seeds"


def _images_text(bound: float, effect: float) -> str:
    ratio = (bound / effect) ** 2 if effect else math.inf
    return f"about {ratio:.1f} times the images" if ratio < 1e3 else "far more images"
