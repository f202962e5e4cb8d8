"""What a study consists of: its file, its runs, and their folders."""

import difflib
import json
from argparse import ArgumentTypeError
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from pconv_seg.arguments import seed
from pconv_seg.engine import PreflightError, build_training_config, check_work_dir
from pconv_seg.engine.config_parts import type_name
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.shift import shift_regions
from pconv_seg.padding import SCHEMES

BASELINE = "zeros"
_KEYS = {"paddings", "seeds", "evaluation"}
_SHIFT_KEYS = {"tile", "bin_width"}


class StudyRun(NamedTuple):
    """One training of a study: a padding, a seed and a folder of its own."""

    padding: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Such as ``partial_seed0``."""
        return self.folder.name


@dataclass(frozen=True)
class Study:
    """A study file, read.

    The file is an mmseg config that trains one network, with one more key::

        study = dict(
            paddings=("zeros", "partial"),           # see set_padding
            seeds=(0, 1, 2),
            evaluation=(dict(tile=180), dict(tile=240)),   # an EvaluationPlan each
            shift=dict(tile=192, bin_width=8),       # a shift test; may be left out
        )

    Attributes:
        file: The study file.
        folder: Where everything goes.
        config: The training config.
        paddings: Schemes, each trained and tested.
        seeds: Each with every padding.
        plans: What to evaluate; their tile sizes differ.
        shift: Options of :func:`pconv_seg.evaluation.shift.shift_checkpoints`; None for no shift
            test.
    """

    file: Path
    folder: Path
    config: Config
    paddings: tuple[str, ...]
    seeds: tuple[int, ...]
    plans: tuple[EvaluationPlan, ...]
    shift: dict[str, Any] | None = None

    @classmethod
    def load(cls, file: str | Path, folder: str | Path) -> "Study":
        """Read a study file.

        Raises:
            PreflightError: If there is no such file, it is not a study's, or the folder cannot be
                one.
        """
        config = build_training_config(str(file), work_dir=str(folder))
        check_work_dir(config)
        options = config.get("study")
        if not isinstance(options, dict) or set(options) - {"shift"} != _KEYS:
            raise PreflightError(
                f"{file}: a study file is a config with study=dict({', '.join(sorted(_KEYS))} and "
                f"maybe shift), but this has study={options!r}"
            )
        paddings = _several(file, options, "paddings", str)
        seeds = _several(file, options, "seeds", int)
        try:
            for value in seeds:
                seed(str(value))  # as train.py takes it
        except ArgumentTypeError as error:
            raise PreflightError(f"{file}: study.seeds: {error}") from error
        unknown = set(paddings) - set(SCHEMES)
        if unknown:
            raise PreflightError(
                f"{file}: study.paddings names {', '.join(map(repr, sorted(unknown)))}, but the "
                f"schemes are {', '.join(SCHEMES)}"
            )
        try:
            plans = tuple(EvaluationPlan(**plan) for plan in options["evaluation"])
        except (TypeError, ValueError) as error:
            raise PreflightError(f"{file}: study.evaluation: {error}") from error
        tiles = [plan.tile for plan in plans]
        if not tiles or None in tiles or len(set(tiles)) != len(tiles):
            raise PreflightError(
                f"{file}: study.evaluation needs at least one entry, each with another `tile`, "
                f"but has tiles {tiles}"
            )
        shift = _shift(file, options.get("shift"))
        # mmengine's default is by epoch.
        if (config.get("default_hooks", {}).get("checkpoint") or {}).get("by_epoch", True):
            raise PreflightError(
                f"{file}: runs need default_hooks.checkpoint=dict(by_epoch=False, ...) to go on "
                "where they stopped"
            )
        train_cfg = config.get("train_cfg")
        if "max_iters" not in (train_cfg or {}):
            raise PreflightError(
                f"{file}: the budget is train_cfg.max_iters, but train_cfg is {train_cfg}"
            )
        hooks = [*config.get("default_hooks", {}).values(), *(config.get("custom_hooks") or ())]
        if any(hook and type_name(hook) == "EarlyStoppingHook" for hook in hooks):
            raise PreflightError(
                f"{file}: all runs of a study have the same budget; leave out EarlyStoppingHook, "
                "which ends each of them where its scores say"
            )
        return cls(Path(file), Path(folder), config, paddings, seeds, plans, shift)

    @property
    def runs(self) -> list[StudyRun]:
        """All trainings, seed by seed, so that an unfinished study still compares paddings."""
        return [
            StudyRun(padding, seed, self.folder / "runs" / f"{padding}_seed{seed}")
            for seed, padding in product(self.seeds, self.paddings)
        ]

    @property
    def compared(self) -> list[str]:
        """The paddings to compare with zero padding; none if the study is without it."""
        others = [padding for padding in self.paddings if padding != BASELINE]
        return others if BASELINE in self.paddings else []

    @property
    def max_iters(self) -> int:
        """The budget of each training."""
        return self.config.train_cfg.max_iters

    @property
    def kept_config(self) -> Path:
        """The folder's copy of the config that its runs were trained with."""
        return self.folder / "config.py"

    @property
    def training_text(self) -> str:
        """What all runs of a folder must have in common: the config without the study's plan."""
        others = ("study", "work_dir", "resume")
        try:
            return Config({k: v for k, v in self.config.items() if k not in others}).pretty_text
        except SyntaxError as error:
            # mmengine reports whatever ends its formatting as bad syntax.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise

    def check_folder(self) -> None:
        """Compare the folder's copy of the training config, if it has one, with this study's.

        Raises:
            PreflightError: If they differ, with the difference.
        """
        if not self.kept_config.exists():
            return
        found, text = self.kept_config.read_text(), self.training_text
        if found != text:
            lines = list(difflib.unified_diff(found.splitlines(), text.splitlines(), n=0))[2:]
            changed = "\n".join(line for line in lines if not line.startswith("@@"))
            raise PreflightError(
                f"{self.folder} holds runs that were trained with another config than {self.file}; "
                f"take the change back, or choose another --work-dir. The change:\n{changed}"
            )


def _shift(file: str | Path, options: Any) -> dict[str, Any] | None:
    if options is None:
        return None
    if not isinstance(options, dict) or set(options) - _SHIFT_KEYS or options.get("tile") is None:
        raise PreflightError(
            f"{file}: study.shift is dict(tile=...), maybe with bin_width, but is {options!r}"
        )
    try:
        shift_regions(**options)
    except (TypeError, ValueError) as error:
        raise PreflightError(f"{file}: study.shift: {error}") from error
    return json.loads(json.dumps(options))  # as files hold it, with lists in place of tuples


def _several(file: str | Path, options: dict, key: str, kind: type) -> tuple[Any, ...]:
    values = options[key]
    listed = isinstance(values, (list, tuple)) and {type(value) for value in values} == {kind}
    if not listed or len(set(values)) != len(values):
        raise PreflightError(
            f"{file}: study.{key} must list different values of type {kind.__name__}, got "
            f"{values!r}"
        )
    return tuple(values)
