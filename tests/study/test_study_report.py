"""What the report says about counts that are known."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
from noise_study import CONFIG, STUDY, study_of, write_log
from scipy import stats

from pconv_seg.engine import PreflightError
from pconv_seg.evaluation.bootstrap import Difference
from pconv_seg.evaluation.record import Record
from pconv_seg.evaluation.report import Report
from pconv_seg.study.contents import Contents
from pconv_seg.study.curves import read_scalars
from pconv_seg.study.evaluation import evaluate_runs, read_shift, save_shift
from pconv_seg.study.figures import cross_matrices
from pconv_seg.study.findings import (
    findings,
    needed,
    rounded,
    shift_cost,
    shift_gap,
    signed,
    verdict,
)
from pconv_seg.study.report import write_report
from pconv_seg.study.results import Cell, Results
from pconv_seg.study.statistics import Contrast, seed_interval

NONE = (float("nan"), float("nan"))


def contrast(mean, seeds, images, count=3):
    return Contrast(
        tuple(range(count)), (mean,) * count, Difference(mean, *seeds), Difference(mean, *images)
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            contrast(1, (0.6, 1.5), (0.7, 2.2)),
            "Yes, as in the paper: the joint interval is [+0.50, +2.30].",
        ),
        (
            contrast(-1, (-1.5, -0.6), (-2.2, -0.7)),
            "No, the opposite: the joint interval is [-2.30, -0.50].",
        ),
        (
            contrast(1, (0.2, 1.3), (0.1, 1.4)),
            "above 0, as in the paper; each interval excludes 0, but not the joint one, "
            "[-0.20, +1.50].",
        ),
        (
            contrast(1, (-0.5, 2.5), (0.2, 1.8)),
            "above 0, as in the paper; the interval over images excludes 0, that over seeds",
        ),
        (contrast(1, (0.5, 1.5), (-0.2, 2.2)), "over seeds excludes 0, that over images does not"),
        (contrast(-1, (-3, 1), (-3, 1)), "below 0, unlike the paper; neither"),
        (contrast(0.0, (-1, 1), (-1, 1)), "the figure is 0; neither"),
        (contrast(1, NONE, (0.2, 1.8), count=1), "one seed says nothing"),
        (contrast(1, (0.5, 1.5), NONE), "above 0, as in the paper; these images give no interval"),
        (contrast(np.nan, NONE, NONE, count=0), "No answer"),
    ],
)
def test_verdicts(given, words):
    assert words in verdict(given)


def test_verdicts_name_the_paper_only_where_it_has_the_number():
    for given in (contrast(1, (0.5, 1.5), (0.2, 1.8)), contrast(-1, (-3, 1), (-3, 1))):
        assert "paper" in verdict(given)
        assert "paper" not in verdict(given, in_paper=False)


def test_what_is_needed_is_computed_from_the_spread():
    values = (0.2, 1.0, 1.5)
    mean = float(np.mean(values))
    given = Contrast((0, 1, 2), values, Difference(mean, -0.7, 2.5), Difference(mean, -0.9, 2.7))
    # Each may keep half of the square of the distance to 0.
    count = next(
        n
        for n in range(2, 100)
        if stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 < mean / 2**0.5
    )
    assert f"about {count} seeds and about {2 * (1.8 / mean) ** 2:.1f} times the images" in needed(
        given
    )
    assert "two seeds" in needed(contrast(1, NONE, (0.2, 1.8), count=1))
    assert "Settled" in needed(contrast(1, (0.5, 1.5), (0.2, 1.8)))
    for seeds, images, words in (
        ((0.4, 1.5), (-0.2, 2.2), f"about {1.2**2 / 0.64:.1f} times the images with these seeds"),
        ((-0.5, 2.5), (0.2, 1.8), "about 2 seeds on these images"),
        (
            (0.2, 2.5),
            (0.2, 1.8),
            f"about 2 seeds on these images, or about {0.64 / 0.36:.1f} times the images with "
            "these seeds",
        ),
        ((0.5, 1.5), NONE, "images enough for an interval, which these do not give"),
    ):
        assert needed(contrast(1, seeds, images)).endswith(f" deviation 0.00): {words}.")


def test_seeds_needed_are_of_what_the_images_leave():
    values = (0.2, 1.0, 1.5)
    mean = float(np.mean(values))
    given = Contrast((0, 1, 2), values, seed_interval(values), Difference(mean, mean / 2, 3.0))
    left = mean * 0.75**0.5
    count = next(
        n
        for n in range(2, 100)
        if stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 < left
    )
    assert needed(given).endswith(f": about {count} seeds on these images.")


@pytest.mark.parametrize(
    ("mean", "images", "words"),
    [
        (0.3, (-0.02, 0.5), f"and about {2 * (0.32 / 0.3) ** 2:.1f} times the images."),
        (-0.3, (-0.5, 0.15), f"and about {2 * (0.45 / 0.3) ** 2:.1f} times the images."),
        (0.3, (-30, 0.5), "and far more images."),
        (0.0, (-1, 1), "more than 1000 seeds and far more images."),
        (0.3, NONE, "and images enough for an interval, which these do not give."),
    ],
)
def test_images_needed_are_those_that_move_the_bound_towards_0_past_it(mean, images, words):
    assert needed(contrast(mean, (-9, 9), images)).endswith(words)


def test_a_score_that_is_missing_is_no_answer():
    given = contrast(np.nan, NONE, NONE)
    assert "no class occurs" in verdict(given)
    assert needed(given) == "Images with classes there."


def test_contrasts_agree_with_the_report_of_each_run(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    results = Results(study)
    for evaluation, mode, number in (("tile16", "regular", 0), ("tile24", "tile_overlap", 2)):
        expected = [
            Report(Record.load(run.folder / "evaluation" / f"{evaluation}.npz")).miou[0]
            for run in study.runs
            if run.padding == "partial"
        ]
        plan_mode = ("regular", "tile", "tile_overlap").index(mode)
        cell = Cell(evaluation, "partial", "partial", mode, number)
        assert results.contrast({cell: 1.0}).values == pytest.approx(
            [miou[plan_mode, number] for miou in expected]
        )
    crossed = Report(Record.load(study.runs[0].folder / "evaluation" / "cross.npz"))
    cell = Cell("cross", "zeros", "partial", "tile")
    assert results.contrast({cell: 1.0}).values[0] == pytest.approx(crossed.miou[1, 1, 0])


def test_costs_of_the_shift_test_agree_with_its_records(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    results = Results(study)
    records = [read_shift(run)[0].as_dict() for run in study.runs if run.padding == "partial"]
    totals = [record["total"]["mIoU"]["cost"] for record in records]
    assert results.contrast(shift_cost("partial")).values == pytest.approx(totals)
    second = [record["bins"][1]["mIoU"]["cost"] for record in records]
    assert results.contrast(shift_cost("partial", 2)).values == pytest.approx(second)
    gap = results.contrast(shift_gap("partial"))
    zero = results.contrast(shift_cost("zeros"))
    assert gap.values == pytest.approx(np.subtract(totals, zero.values))


def test_only_seeds_with_all_runs_count(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1, 2)), skip=("partial_seed1",))
    zero, partial = (Cell("tile16", p, p, "tile") for p in ("zeros", "partial"))
    results = Results(study)
    assert results.contrast({zero: 1.0}).seeds == (0, 1, 2)
    both = results.contrast({partial: 1.0, zero: -1.0})
    assert both.seeds == (0, 2)
    single = [results.contrast({cell: 1.0}) for cell in (zero, partial)]
    assert both.values[1] == pytest.approx(single[1].values[1] - single[0].values[2])


def test_the_parts_of_a_finding_are_of_the_same_seeds_as_its_number(
    make_study, evaluate_at_random, no_figures
):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1, 2)), skip=("partial_seed1",))
    parts = re.compile(r"\(([+-][0-9.]+)\).* minus .*\(([+-][0-9.]+)\)")
    found = [(f.contrast, parts.search(f.measured)) for f in findings(Results(study))]
    found = [(contrast, match) for contrast, match in found if match]
    assert len(found) == 2 + 2 + 1 + 1
    for contrast, match in found:
        assert contrast.seeds == (0, 2)
        assert float(match[1]) - float(match[2]) == pytest.approx(contrast.mean, abs=0.011)
    text = write_report(study).read_text()
    assert "a standard deviation of 2 seeds is itself" in text


@pytest.mark.parametrize(
    ("digests", "words"),
    [
        ("aaaa", "within every seed it is the same for all paddings."),
        ("aabb", "within every seed it is the same for all paddings."),
        (
            "aaa-",
            "it is known for 3 of 4 runs, and there within every seed it is the same for all "
            "paddings.",
        ),
        ("----", "none was kept."),
        ("abaa", "**the runs of seed 0 did not start alike.**"),
    ],
)
def test_how_the_runs_started_is_said_as_far_as_it_is_known(
    make_study, evaluate_at_random, digests, words
):
    # Whether the last run is evaluated makes no difference.
    study = make_study(("zeros", "partial"), (0, 1))
    evaluate_at_random(study, skip=("partial_seed1",) if digests == "aaa-" else ())
    for run, digest in zip(study.runs, digests, strict=True):
        if digest != "-":
            (run.folder / "start.json").write_text(json.dumps({"weights": digest}))
    assert Contents(Results(study)).context["start"] == words


def test_how_validation_changed_at_the_end_is_last_minus_before(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    for run, scores in zip(study.runs, ((1, 10, 12), (1, 20, 19.5), (1, 30), ()), strict=True):
        write_log(run, [{"mIoU": score, "step": i} for i, score in enumerate(scores, 1)])
    convergence = Contents(Results(study)).context["convergence"]
    assert convergence["text"].startswith(
        "From iteration 2 to 3 the validation mIoU changed by +0.75 percentage points in the mean "
        "(runs: 2; -0.50 to +2.00)."
    )
    spread, one = stdev((10, 30)), "(1 of 2 seeds)"
    assert convergence["table"][1] == [
        "zeros",
        "1.00 ± 0.00",
        f"20.00 ± {spread:.2f}",
        f"12.00 {one}",
    ]
    assert convergence["table"][2] == [
        "partial",
        *(f"{score} {one}" for score in ("1.00", "20.00", "19.50")),
    ]


def test_runs_that_the_study_file_no_longer_names_are_named(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial", "reflect"), (0, 1)))
    for run in study.runs[:5]:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "run.json").write_text(json.dumps({"status": "finished", "attempts": []}))
    assert "Left out" not in Contents(Results(study)).context["status"]
    contents = Contents(Results(make_study(("zeros", "partial"), (0,))))
    left_out = ["partial_seed1", "reflect_seed0", "zeros_seed1"]
    status = contents.context["status"]
    assert status.startswith("2 of 2 runs finished. **Left out: " + ", ".join(left_out) + "**")
    assert contents.as_dict()["runs_left_out"] == left_out


def test_means_and_differences_say_of_how_many_seeds_they_are(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    miou = {key: found[0, 0, 0] for key, found in _mious(study, "tile16").items()}
    zeros, partial = [miou["zeros", 0], miou["zeros", 1]], miou["partial", 0]
    shutil.rmtree(study.runs[3].folder)  # partial padding, seed 1
    context = Contents(Results(study)).context
    assert [row[1] for row in context["scores"][1:]] == [
        f"{mean(zeros):.2f} ± {stdev(zeros):.2f}",
        f"{partial:.2f} (1 of 2 seeds)",
    ]
    difference = context["differences"][1][1]
    assert difference.startswith(f"{partial - zeros[0]:+.2f} [none] [")
    assert difference.endswith("] (1 of 2 seeds)")
    assert context["findings"][0]["number"] == difference


def test_what_no_seed_has_the_runs_for_is_not_measured(make_study, evaluate_at_random, no_figures):
    study = make_study(("zeros", "partial"), (0, 1))
    evaluate_at_random(study, skip=("partial_seed0", "zeros_seed1"))
    text = write_report(study).read_text()
    assert text.count("No answer: no seed has all the runs that it takes.\n- **Is") > 1
    assert "Measured" not in text
    assert "nan" not in text


def test_what_the_paper_has_for_each_question(make_study, evaluate_at_random):
    """Of Tables 4 to 7; whole images are there twice, and the shift test is not."""
    study = evaluate_at_random(make_study(study=study_of("dict(tile=16)")))
    assert [f.paper for f in findings(Results(study))] == [
        "+0.11 to +0.33 (Table 5, four comparisons, 3 runs each); +0.012 (Table 6)",
        "+0.377 (79.530 to 79.907)",
        "+0.374 (79.705 to 80.079)",
        "+0.872 (+0.377 to +1.249)",
        "+0.365 (-0.461 and -0.825: tiles gain there)",
        "+15.63 in ImageNet top-1 of ResNet50 (+16.36 and +0.73)",
        None,
    ]


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, None),
        ({"leave_outs": (0.5,)}, None),
        ({"leave_outs": ("1/3",)}, ", regions of tile24"),
        ({"proportion": "area"}, ", share of the image's area"),
        ({"region": "tile"}, ", share of the tile's side"),
        ({"bands": (8,)}, ", regions of tile24"),
    ],
)
def test_whole_images_are_shown_once_for_each_choice_of_regions(
    make_study, evaluate_at_random, options, added
):
    first = {"tile": 16, "leave_outs": ("1/2",), "bands": (4,)}
    second = {**first, "tile": 24, **options}
    study = evaluate_at_random(make_study(study=study_of(f"{first}", f"{second}")))
    contents = Contents(Results(study))
    # Regions: nothing and one share left out; two distances from the border.
    kind, title, places = "leave_outs", "on whole images", slice(0, 2)
    if "bands" in options:
        kind, title, places = "distances", f"By pixels to the image border, {title}", slice(2, 4)
    blocks = [b for b in contents.context[kind] if "on whole images" in b["title"]]
    assert [block["title"] for block in blocks] == [title, *([f"{title}{added}"] if added else [])]
    miou = _mious(study, "tile24" if added else "tile16")["zeros", 0][0, 0]
    miou[0] = _mious(study, "tile16")["zeros", 0][0, 0, 0]  # with nothing left out it is the same
    assert blocks[-1]["scores"][1] == ["zeros", *(f"{value:.2f}" for value in miou[places])]
    terms = [term for cell in contents.as_dict()["cells"] for term in cell["terms"]]
    shown = {
        term["region"]
        for term in terms
        if (term["evaluation"], term["mode"]) == ("tile24", "regular")
    }
    assert bool(shown) == bool(added)
    assert "leave_out 0" not in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.001, "+0.00"), (-0.0, "+0.00"), (-0.006, "-0.01"), (1.005, "+1.00"), (np.nan, "-")],
)
def test_no_number_is_minus_zero(value, text):
    assert signed(np.float64(value)) == text
    assert rounded(value) == text.removeprefix("+")


def test_shares_that_differ_are_those_that_do_not_agree(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    rows = Contents(Results(study)).context["shift"]["overlaps"]
    for padding, row in zip(study.paddings, rows[1:], strict=True):
        records = [read_shift(run)[0].as_dict() for run in study.runs if run.padding == padding]
        differ = [100 - record["total"]["agreement"] for record in records]
        assert row[:2] == [padding, f"{mean(differ):.2f} ± {stdev(differ):.2f}"]


def test_rows_of_the_tables_of_distances_are_paddings(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    for block in Contents(Results(study)).context["distances"]:
        assert [row[0] for row in block["scores"]] == ["padding", "zeros", "partial"]
        assert [row[0] for row in block["differences"]] == ["padding minus zeros", "partial"]


def test_without_zeros_nothing_is_announced_that_does_not_follow(
    make_study, evaluate_at_random, no_figures
):
    study = evaluate_at_random(make_study(("reflect", "replicate"), (0,)))
    text = write_report(study).read_text()
    assert text.count("|---|\n| re") == text.count("|---|\n") > 0
    for words in ("Differences from zero", "## The paper's pattern", "What would settle"):
        assert words not in text
    assert "| validation mIoU" not in text  # nothing was logged
    assert "\n\n## Leave-out\n" in text
    assert "\n\n## Reproduce\n" in text


def test_report_lists_failed_and_missing_runs(make_study, evaluate_at_random):
    study = make_study(("zeros", "partial"), (0, 1))
    evaluate_at_random(study, skip=("partial_seed1", "zeros_seed1"))
    failed = study.runs[-1]
    state = {
        "padding": failed.padding,
        "seed": failed.seed,
        "status": "failed",
        "attempts": [
            {"started": "", "from_iteration": 0, "seconds": 3661.0, "exit_code": 3},
            {"started": "", "from_iteration": 1, "seconds": None, "exit_code": None},
            {"started": "", "from_iteration": 1, "seconds": None, "exit_code": -9},
        ],
        "log_tail": ["Traceback", "ValueError: no such <thing>"],
    }
    failed.folder.mkdir(parents=True, exist_ok=True)
    (failed.folder / "run.json").write_text(json.dumps(state))

    path = write_report(study)

    text = path.read_text()
    assert "together whose end was recorded: 1:01:01 (h:mm:ss)" in text
    assert '"time" is of all attempts\nwhose end was recorded' in text
    assert "partial_seed1 (failed)" in text
    assert "zeros_seed1 (not started)" in text
    assert "**Not fully evaluated: zeros_seed1, partial_seed1**" in text
    assert "| partial_seed1 | failed | 0 of 2 | from 0, from 1, from 1 | 3, unknown, -9 " in text
    assert "-9 (SIGKILL) | 1:01:01 |" in text
    assert "ValueError: no such <thing>" in text
    page = path.with_suffix(".html").read_text()
    assert "ValueError: no such &lt;thing&gt;" in page
    assert page.count("<table>") == text.count("\n|---|")
    # Every figure that the page shows is there.
    for line in text.splitlines():
        if line.startswith("!["):
            assert (path.parent / line.partition("(")[2].rstrip(")")).is_file()
    assert text.count("](figures/") == 5


def test_the_command_is_that_of_the_training_and_can_be_pasted(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros",), (0, 1, 2)))
    for run, jobs in zip(study.runs, (4, 3, 4), strict=True):
        machine = {"cpu": "", "cores": 8, "gpus": [], "system": "", "versions": {"a": "1"}}
        machine |= {"commit": "1a2b3c4 (changed)"} if jobs == 3 else {}
        state = {"machine": {**machine, "jobs": jobs, "threads": 2}, "status": "finished"}
        (run.folder / "run.json").write_text(json.dumps({**state, "attempts": []}))
    setup = "\n".join(Contents(Results(study)).context["setup"])
    assert "Machine (runs: 2): , 8 cores, no GPU; runs at a time: 4, threads of each: 2; " in setup
    assert "Machine (runs: 1): , 8 cores, no GPU; runs at a time: 3, threads of each: 2; " in setup
    assert setup.count("; a 1.") == setup.count("; a 1; commit 1a2b3c4 (changed).") == 1
    spaced = replace(study, file=study.file.with_name("noise two.py"))
    words = shlex.split(Contents(Results(spaced)).context["command"])
    options = ["--work-dir", str(study.folder), "--jobs", "4"]
    assert words == ["python", "tools/study.py", str(spaced.file), *options]


def test_the_papers_line_is_named_where_it_is_drawn(make_study, evaluate_at_random, no_figures):
    def text(*plans: str) -> str:
        study = evaluate_at_random(make_study(study=study_of(*plans)))
        return write_report(study).read_text()

    line = "The grey line is the paper's Table 7. Its five proportions are not known"
    assert line in text("dict(tile=16)")
    assert line in text("dict(tile=16, leave_outs=(0.875, '3/4', '2/3', 1/2, '1/3'))")
    # Without a mode for the test across paddings, and without leave-outs.
    without = text("dict(tile=16, modes=('tile_overlap',))", "dict(tile=24, leave_outs=())")
    assert "The study's first plan tests overlapping tiles only" in without
    for words in ("Does the gap", "Is it worse to test", "| trained with"):
        assert words not in without
    others = text(
        "dict(tile=16, leave_outs=('1/2',), proportion='area')",
        "dict(tile=20, leave_outs=('1/10', '1/5', '1/4', '1/3', '1/2'))",
        "dict(tile=24, proportion='area')",
        "dict(tile=28, region='tile')",
        "dict(tile=32, modes=('regular',))",
    )
    assert "grey line" not in others
    assert "where 1/2 of the area is left out" in others
    assert "where 7/8 of each side of every tile is left out" in others
    assert "of the height and the width of the image where a heading names nothing else" in others
    assert "### Leave-out on tiles side by side (24 px), share of the image's area\n" in others
    assert "neither labelled nor predicted in an area has no IoU" in others
    asked = others.split("grow with leave-out, on tiles side by side (28 px)?** ")[1]
    assert asked.startswith("Not settled: the figure is ")
    assert "the paper" not in asked.split("\n")[0]  # whose images have one centre
    # No difference of one seed has an interval over seeds.
    assert "of 0 differences in the tables below" in others
    assert "have an interval over seeds, about\n0.0 would" in others
    assert "a standard deviation of" not in others


def test_report_holds_every_cell(make_study, evaluate_at_random, no_figures):
    study = evaluate_at_random(make_study(("zeros", "partial", "reflect"), (0, 1, 2)))
    first, last = {"loss": 0.5, "time": 0.25}, {"loss": float("inf"), "time": 2}
    validation = {"mIoU": 50, "time": 9, "step": 2}
    write_log(study.runs[0], [{**first, "step": 1}, {**last, "step": 2}, validation])

    path = write_report(study)

    content = json.loads(path.with_suffix(".json").read_text())
    scores = [cell for cell in content["cells"] if cell["kind"] == "score"]
    columns = 1 + 2 * 2  # whole images; two kinds of tiles of two sizes
    leave_outs = columns  # one that is not 0, which the whole area is
    border, seam = 2 * columns, 2 * 2 * 2
    cross = 3 * 2  # three paddings in the test; whole images and tiles
    shift = 1 + 2  # all pixels, and two bins
    assert len(scores) == 3 * (columns + leave_outs + border + seam + cross + shift)
    assert all(len(cell["values"]) == 3 for cell in content["cells"])
    # Two paddings minus zeros, and three under two others.
    differences = 2 * (columns + leave_outs + border + seam + shift) + 3 * 2 * 2
    assert differences == 84 - 10
    assert len(content["cells"]) == len(scores) + differences
    assert f"of {differences} differences in the tables below" in path.read_text()
    assert f"about\n{differences / 20:.1f} would exclude 0 over seeds by chance" in path.read_text()
    assert f"overlaps that the bins test,\nup to {2 * 2} px, does" in path.read_text()
    run = content["runs"][0]
    assert run["iterations"] == 2
    assert run["seconds_per_iteration"] == 1.125
    assert run["training_loss"] == {"1": 0.5, "2": None}
    assert len(content["findings"]) == columns + 2 + 2 + 1 + 1
    text = path.read_text()
    cell = next(c for c in scores if c["terms"][0]["mode"] == "tile")
    assert f"{cell['mean']:.2f} ± {cell['sd']:.2f}" in text
    excluding = set()
    for cell in content["cells"]:
        bounds = [cell["over_seeds"], cell["over_images"]]
        if cell["kind"] == "difference":
            settled = cell["joint"][0] > 0 or cell["joint"][1] < 0
            value = f"**{cell['mean']:+.2f}**" if settled else f"{cell['mean']:+.2f}"
            intervals = " ".join(f"[{low:+.2f}, {high:+.2f}]" for low, high in bounds)
            assert f"| {value} {intervals} |".replace("-0.00", "+0.00") in text
            excluding.add(tuple(low > 0 or high < 0 for low, high in bounds))
    assert (True, False) in excluding
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    expected = ["not started", "2 of 2", "-", "-", "0:00:00", "1.125", "inf", "50.00", "-"]
    assert ["zeros_seed0", *expected] in rows


@pytest.mark.parametrize(
    ("validations", "words"),
    [
        (({1: 40}, {1: 42}), "There are not yet two validations."),
        (({1: 40, 3: 50}, {1: 42, 2: 43}), "No run has both of the last two validations."),
        (({1: 40, 2: np.nan}, {1: 42, 2: 43}), r"changed by - .*\(runs: 2; "),
    ],
)
def test_convergence_compares_the_last_two_validations(
    make_study, evaluate_at_random, no_figures, validations, words
):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    for run, scores in zip(study.runs, validations, strict=True):
        write_log(run, [{"mIoU": score, "step": step} for step, score in scores.items()])
    assert re.search(words, write_report(study).read_text())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("", "ResNet with FCNHead, every"),
        (
            "model['decode_head'] = [model['decode_head'], dict(type='PointHead')]\n",
            "ResNet with FCNHead and PointHead, every",
        ),
    ],
)
def test_the_setup_names_all_heads(make_study, evaluate_at_random, model, words):
    study = evaluate_at_random(make_study(("zeros",), (0,), config=CONFIG + model))
    assert words in Contents(Results(study)).context["setup"][0]


def test_the_page_says_what_is_evaluated_from_the_counts(
    make_study, evaluate_at_random, no_figures
):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    (study.runs[0].folder / "run.json").write_text(
        json.dumps({"padding": "zeros", "seed": 0, "status": "running", "attempts": []})
    )
    (study.runs[1].folder / "evaluation" / "shift.npz").unlink()
    text = write_report(study).read_text()
    assert "**Not finished: zeros_seed0 (running), partial_seed0 (not started).**" in text
    assert "**Not fully evaluated: partial_seed0**" in text


def test_without_evaluated_runs_it_says_what_to_do(make_study):
    with pytest.raises(PreflightError, match="--only evaluate"):
        Results(make_study())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("'1/2'", "'2/3'", "tile16.*--only evaluate"),
        ("tile=16, bin_width", "tile=24, bin_width", "the shift.* 16,.* 24,.*evaluate"),
    ],
)
def test_counts_of_another_plan_are_refused(make_study, evaluate_at_random, old, new, words):
    evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    changed = make_study(("zeros", "partial"), (0,), study=STUDY.replace(old, new))
    with pytest.raises(PreflightError, match=f"zeros_seed0: {words}"):
        Results(changed)


@pytest.mark.parametrize("name", ["tile24", "cross", "shift"])
def test_counts_that_cannot_be_read_are_named(make_study, evaluate_at_random, damage, name):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    path = study.runs[1].folder / "evaluation" / f"{name}.npz"
    damage(path)
    with pytest.raises(PreflightError, match=rf"{path} is damaged.*again, with --only evaluate"):
        Results(study)


@pytest.mark.parametrize("name", ["run.json", "start.json", "now/vis_data/scalars.json"])
def test_files_of_a_run_that_cannot_be_read_are_named(make_study, evaluate_at_random, name):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    path = study.runs[1].folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=rf"{path}.* is damaged \(.*: delete "):
        write_report(study)
    assert not (study.folder / "report").exists()
    path.unlink()
    Contents(Results(study))


def test_only_the_last_line_of_a_log_may_be_cut(make_study):
    (run,) = make_study(("zeros",), (0,)).runs
    for attempt, lines in (("1", '{"step": 1}\n{"step": 2}\n{"step": 3'), ("2", '{"step": 2}\n')):
        log = run.folder / attempt / "vis_data" / "scalars.json"
        log.parent.mkdir(parents=True)
        log.write_text(lines)
    assert list(read_scalars(run.folder)) == [{"step": 1}, {"step": 2}, {"step": 2}]
    log.write_text('{"step": 2}\nat work}\n{"step": 3}\n')
    with pytest.raises(ValueError, match=rf"^{log}, line 2, is damaged \(.*\): delete that line$"):
        list(read_scalars(run.folder))


def test_runs_of_another_training_config_are_refused(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    study.kept_config.write_text(study.training_text)
    Results(study)
    changed = make_study(
        ("zeros", "partial"), (0,), config=CONFIG.replace("max_iters=2", "max_iters=4")
    )
    for step in (Results, evaluate_runs):
        with pytest.raises(PreflightError, match=r"(?s)max_iters=2.*max_iters=4"):
            step(changed)


def test_counts_without_a_padding_that_was_added_are_refused(make_study, evaluate_at_random):
    evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    added = make_study(("zeros", "partial", "reflect"), (0,))
    with pytest.raises(PreflightError, match=r"zeros_seed0: cross.*fewer paddings.*evaluate"):
        Results(added)
    # One padding less is no reason to evaluate again.
    assert Results(make_study(("zeros",), (0,))).records["cross"].tested[1].padding == "partial"


@pytest.mark.parametrize("name", ["tile16", "shift"])
def test_runs_of_other_images_are_refused(make_study, evaluate_at_random, name):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    path = study.runs[1].folder / "evaluation" / f"{name}.npz"
    images = ("other.png", *(f"{i}.png" for i in range(1, 6)))
    if name == "shift":
        save_shift(replace(read_shift(study.runs[1])[0], images=images), study.shift, path)
    else:
        replace(Record.load(path), images=images).save(path)
    with pytest.raises(PreflightError, match=r"partial_seed0.*other images"):
        Results(study)


def _mious(study, name):
    """mIoU[networks, modes, regions] of each run."""
    return {
        (run.padding, run.seed): Report(Record.load(run.folder / "evaluation" / f"{name}.npz")).miou
        for run in study.runs
    }


def test_findings_are_above_0_where_their_question_is_answered_with_yes(
    make_study, evaluate_at_random
):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    own, cross = (_mious(study, name) for name in ("tile16", "cross"))
    found = {f.question: f.contrast.values for f in findings(Results(study))}

    def values(start):
        return next(v for q, v in found.items() if q.startswith(start))

    def gap(seed, mode, region):
        return own["partial", seed][0, mode, region] - own["zeros", seed][0, mode, region]

    seeds = (0, 1)
    for mode, place in enumerate(("on whole", "on tiles", "on overlapping")):
        expected = [gap(s, mode, 0) for s in seeds]
        assert values(f"Is partial padding better than zero padding {place}") == pytest.approx(
            expected
        )
    assert values("Does the gap") == pytest.approx([gap(s, 1, 1) - gap(s, 1, 0) for s in seeds])
    # The networks of `cross` are tested with zeros, then with partial padding.
    loss = [
        (cross["zeros", s][0, 0, 0] - cross["zeros", s][1, 0, 0])
        - (cross["partial", s][1, 0, 0] - cross["partial", s][0, 0, 0])
        for s in seeds
    ]
    assert values("Is it worse to test") == pytest.approx(loss)


def test_cross_table_has_the_training_in_rows(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0,)))
    (zeros, partial) = (_mious(study, "cross")[p, 0][:, 0, 0] for p in ("zeros", "partial"))
    contents = Contents(Results(study)).context
    assert contents["cross"][0]["table"][1:] == [
        ["zeros", *(f"{v:.2f}" for v in zeros)],
        ["partial", *(f"{v:.2f}" for v in partial)],
    ]
    assert cross_matrices(Results(study))[0]["mIoU"] == [
        pytest.approx(list(zeros)),
        pytest.approx(list(partial)),
    ]
