"""Reading study files."""

import ast
import os
import re
import signal
import time
from pathlib import Path

import pytest
from noise_study import CONFIG, study_of

from pconv_seg.engine import PreflightError
from pconv_seg.study import training
from pconv_seg.study.evaluation import evaluations
from pconv_seg.study.plan import Study

CONFIGS = Path(__file__).parents[2] / "configs" / "studies"
FORMAT = "yapf.yapflib.style.CreateStyleFromConfig"  # the first step of formatting a config


def test_runs_go_seed_by_seed(make_study):
    study = make_study(("zeros", "reflect"), (3, 5))
    assert [(run.padding, run.seed) for run in study.runs] == [
        ("zeros", 3),
        ("reflect", 3),
        ("zeros", 5),
        ("reflect", 5),
    ]
    assert study.runs[1].folder == study.folder / "runs" / "reflect_seed3"
    assert study.max_iters == 2
    assert [plan.tile for plan in study.plans] == [16, 24]


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("", "study=None"),
        ("study = dict(paddings=('zeros',), seeds=(0,))", r"paddings.*seeds"),
        ("study = dict(paddings=('zero',), seeds=(0,), evaluation=())", "'zero'.*zeros, partial"),
        ("study = dict(paddings=('zeros',), seeds=(0, 0), evaluation=())", "different values"),
        ("study = dict(paddings=('zeros',), seeds=3, evaluation=())", r"study\.seeds"),
        *(
            (
                f"study = dict(paddings=('zeros',), seeds=(0, {seed}), evaluation=())",
                rf"study\.seeds: '{seed}' is not a whole number from 0 to {2**32 - 1}",
            )
            for seed in (-1, 2**32)
        ),
        *(
            (
                f"study = dict(paddings={paddings}, seeds={seeds}, evaluation=())",
                rf"study\.{key} must list different values of type {kind}, got [(\[]",
            )
            for paddings, seeds, key, kind in (
                ("('zeros',)", "([0],)", "seeds", "int"),
                ("('zeros',)", "(0, 'a')", "seeds", "int"),
                ("('zeros',)", "()", "seeds", "int"),
                ("(['zeros'],)", "(0,)", "paddings", "str"),
            )
        ),
        ("study = dict(paddings=('zeros',), seeds=(0,), evaluation=())", "at least one entry"),
        ("study = dict(paddings=('zeros',), seeds=(0,), evaluation=(dict(),))", "tiles"),
        (
            "study = dict(paddings=('zeros',), seeds=(0,), evaluation=(dict(tile=8, mode=1),))",
            "mode",
        ),
        (
            "study = dict(paddings=('zeros',), seeds=(0,), evaluation=(dict(tile=8),), "
            "shift=dict(size=8))",
            r"tile=\.\.\..*bin_width.*'size': 8",
        ),
        *(
            (
                "study = dict(paddings=('zeros',), seeds=(0,), evaluation=(dict(tile=8),), "
                f"shift={shift})",
                message,
            )
            for shift, message in (
                ("192", r"study\.shift is dict.*192"),
                ("dict(tile=None)", r"study\.shift is dict\(tile=\.\.\.\).*'tile': None"),
                ("dict(tile=2)", r"study\.shift: .*at least 4"),
                ("dict(tile=(16, 'a'))", r"study\.shift: "),
                ("dict(tile=[8, 8, 8])", r"study\.shift: tile must be .*, got [(\[]8, 8, 8"),
                ("dict(tile=16, bin_width=0)", r"study\.shift: bins must be at least 1"),
            )
        ),
    ],
)
def test_a_bad_study_file_is_named_with_what_is_wrong(make_study, study, message):
    with pytest.raises(PreflightError, match=f"noise.py.*{message}"):
        make_study(study=study)


def test_tiles_may_be_lists_and_the_shift_test_may_go_without_bin_width(make_study):
    study = make_study(
        study="study = dict(paddings=('zeros',), seeds=(0,), "
        "evaluation=(dict(tile=[16, 24]), dict(tile=[24, 16])), shift=dict(tile=[16, 24]))"
    )
    assert [plan.tile for plan in study.plans] == [(16, 24), (24, 16)]
    assert study.shift == {"tile": [16, 24]}
    with pytest.raises(PreflightError, match=r"another `tile`"):
        make_study(study=study_of("dict(tile=[16, 24])", "dict(tile=(16, 24))"))


def test_other_paddings_are_tested_on_whole_areas_alone(make_study):
    plan, paddings = evaluations(make_study())["cross"]
    assert (plan.tile, plan.modes) == (16, ("regular", "tile"))
    assert paddings == ("zeros", "partial")
    (region,) = plan.regions("tile").regions
    assert (region.kind, region.start) == ("leave_out", 0)


def test_without_a_mode_to_test_under_other_paddings_the_rest_is_evaluated(make_study):
    study = make_study(study=study_of("dict(tile=16, modes=('tile_overlap',))", "dict(tile=24)"))
    assert list(evaluations(study)) == ["tile16", "tile24"]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("max_iters=2, val_interval=1", "max_epochs=2", r"\{.*'max_epochs': 2\}"),
        ("train_cfg = ", "other = ", "None"),
    ],
)
def test_a_budget_that_is_not_in_iterations_is_refused(make_study, old, new, found):
    with pytest.raises(PreflightError, match=rf"noise.py: .*train_cfg\.max_iters, .* is {found}$"):
        make_study(config=CONFIG.replace(old, new))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_config_is_formatted_stays_one(make_study, monkeypatch, number):
    study = make_study()

    def interrupted(*_, **__):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(FORMAT, interrupted)
    with pytest.raises(training.Interrupted) as error, training.signals_raise():
        _ = study.training_text
    assert error.value.signal == number


def test_a_config_that_cannot_be_formatted_is_a_mistake_in_it(make_study, monkeypatch):
    monkeypatch.setattr(FORMAT, lambda *_, **__: 1 / 0)
    with pytest.raises(SyntaxError, match="Failed to format"):
        _ = make_study().training_text


@pytest.mark.parametrize("below", ["", "runs/here"])
def test_a_work_dir_that_cannot_be_a_folder_is_refused(make_study, tmp_path, below):
    file = make_study().file
    folder = file / below
    with pytest.raises(PreflightError, match=rf"^--work-dir: .* {folder} \({file}: Not a dir"):
        Study.load(file, folder)


@pytest.mark.parametrize(
    "hook", ["", "checkpoint=None", "checkpoint=dict(type='CheckpointHook', interval=1)"]
)
def test_runs_that_could_not_resume_are_refused(make_study, hook):
    config = CONFIG.replace(
        "checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)", hook
    )
    assert config != CONFIG
    with pytest.raises(PreflightError, match=r"default_hooks\.checkpoint=dict\(by_epoch=False"):
        make_study(config=config)


@pytest.mark.parametrize("scope", ["", "mmengine."])
@pytest.mark.parametrize("hooks", ["default_hooks['stop'] = {}", "custom_hooks = [{}]"])
def test_runs_of_different_budgets_are_refused(make_study, hooks, scope):
    hook = f"dict(type='{scope}EarlyStoppingHook', monitor='mIoU')"
    with pytest.raises(PreflightError, match=r"noise.py: .*leave out EarlyStoppingHook"):
        make_study(config=f"{CONFIG}\n{hooks.format(hook)}\n")


@pytest.mark.parametrize("name", ["camvid", "demo"])
def test_schedules_of_the_studies_end_with_the_budget(name, monkeypatch):
    monkeypatch.setenv("CAMVID_DATASET", "/elsewhere")
    study = Study.load(CONFIGS / f"{name}.py", "work")
    assert study.config.param_scheduler[-1].end == study.max_iters
    assert study.max_iters % study.config.train_cfg.val_interval == 0
    assert study.paddings == ("zeros", "partial", "reflect", "replicate")
    assert study.seeds == (0, 1, 2, 3, 4)
    training._check_network(study)  # every padding can pad the maps of all tiles


def test_the_example_in_the_docs_has_all_of_the_demo_study():
    page = (CONFIGS.parents[1] / "docs" / "study.md").read_text()
    (example,) = re.findall(r"```python\n(_base_ = .*?)```", page, re.S)
    assert ast.dump(ast.parse(example)) == ast.dump(ast.parse((CONFIGS / "demo.py").read_text()))
