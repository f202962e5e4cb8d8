"""Train all runs of a study, each in a process of its own."""

import copy
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

import torch
from mmengine.registry import init_default_scope
from tqdm import tqdm

from pconv_seg.checkpoints.loading import build_network
from pconv_seg.engine import PreflightError, check_testing, check_training, scope_of
from pconv_seg.evaluation.runs import finished_run
from pconv_seg.files import atomic_path, parse_json, write_json
from pconv_seg.geometry import pair
from pconv_seg.inference import tile_predictor
from pconv_seg.padding import scheme_of, set_padding
from pconv_seg.padding.describe import first_of, is_padded_convolution
from pconv_seg.parallel import cores
from pconv_seg.work_dir import newest_checkpoint, progress

from .curves import reached_iteration
from .machine import describe_machine
from .plan import Study, StudyRun
from .start import read_start

_PACKAGE_PARENT = Path(__file__).parents[2]
_LOG, _STATE = "train.log", "run.json"
_LOG_TAIL = 20  # lines
_OPTIONS = (
    "default_hooks.start.type=StartDigestHook",
    # In a study every run must survive being killed, whatever hook its config has.
    "default_hooks.checkpoint.type=ResumableCheckpointHook",
)
_POLL = 1  # seconds
_STOP_PATIENCE = 30  # seconds


class Interrupted(KeyboardInterrupt):
    """A signal ended the study; what it had begun can be resumed.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.signal = number


def exit_name(code: int) -> str:
    """An exit code, with the name of the signal if one ended the process: ``-9 (SIGKILL)``."""
    names = {-number: f" ({number.name})" for number in signal.Signals}
    return f"{code}{names.get(code, '')}"


def train_runs(study: Study, train_tool: Path, jobs: int = 1) -> list[StudyRun]:
    """Train what is not finished yet, ``jobs`` runs at a time.

    Every run is ``tools/train.py STUDY --padding P --seed S --resume`` in its own folder below
    ``DIR/runs``, with its output in ``train.log`` and its state in ``run.json``. Finished runs are
    left alone, interrupted ones go on from their last checkpoint, and so do failed ones. A run that
    has its final checkpoint, but whose process failed or ended with nobody there to record it, is
    started once more, to make up for a missing validation. A run that fails is recorded with
    its exit code and its last lines of output, and the others go on.

    Each process gets an equal share of the cores (``OMP_NUM_THREADS``).

    Args:
        study: What to train.
        train_tool: ``tools/train.py``.
        jobs: Runs at a time.

    Returns:
        Those that failed.

    Raises:
        PreflightError: Data or weights are missing, the network has convolutions whose padding
            cannot be switched or cannot predict the tiles of the study's evaluation, the folder
            holds a study with another training config, or another process is at work in it.
        ValueError: Naming the file, if the state or the log of a run is damaged, or a part
            of the network is not registered.
        Interrupted: By SIGINT or SIGTERM, when all processes have ended.
    """
    check_training(study.config)
    check_testing(study.config, ())  # which the evaluation needs, after all trainings
    with _lock(study.folder / ".lock") as lock, signals_raise():
        study.check_folder()
        unfinished = [run for run in study.runs if not _is_finished(run)]
        if unfinished:
            _check_network(study)
        if not study.kept_config.exists():
            with atomic_path(study.kept_config) as path:
                path.write_text(study.training_text)
        waiting, done = list(unfinished), len(study.runs) - len(unfinished)
        print(f"{len(study.runs)} runs, {done} of them finished; logs in {study.folder}/runs/*/")
        machine = {**describe_machine(), "jobs": jobs, "threads": max(1, cores() // jobs)}
        total = study.max_iters * len(waiting)
        # Before the first process starts: a damaged log would end those at work, and the report.
        logged = {run: reached_iteration(run.folder) for run in study.runs}
        for run in study.runs:
            read_start(run.folder)
        begun = sum(logged[run] for run in unfinished)
        running: list[_Process] = []
        failed = []
        with tqdm(total=total, initial=begun, unit="iter", disable=not total, mininterval=5) as bar:
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        run = waiting.pop(0)
                        running.append(_Process(study, run, train_tool, machine, lock))
                        tqdm.write(f"{run.name}: started")
                    time.sleep(_POLL)
                    for process in [p for p in running if p.ended()]:
                        running.remove(process)
                        tqdm.write(f"{process.run.name}: {process.record()}")
                        if process.failed:
                            failed.append(process.run)
                    reached = (reached_iteration(run.folder) for run in unfinished)
                    bar.update(sum(reached) - bar.n)
            finally:
                for process in running:
                    process.stop()
                for process in running:  # a second loop: a full disk may end it
                    process.record(interrupted=True)
    return failed


def read_state(run: StudyRun) -> dict:
    """``run.json`` of a run; one that says "not started" if there is none.

    Keys: ``padding``, ``seed``, ``status`` (``finished``, ``failed``, ``interrupted``, ``running``
    or ``not started``), ``machine``, ``attempts`` (each with ``started``, ``seconds``,
    ``from_iteration``, ``exit_code``) and, for a failed run, ``log_tail``.

    Raises:
        ValueError: Naming the file, if it is damaged.
    """
    path = run.folder / _STATE
    if path.is_file():
        remedy = "delete it, and the next training goes on from the run's last checkpoint"
        return parse_json(path.read_bytes(), path, ["status", "attempts"], remedy)
    return {"padding": run.padding, "seed": run.seed, "status": "not started", "attempts": []}


def _check_network(study: Study) -> None:
    # Else networks with several paddings would be trained, but found under no padding's name.
    config = study.config
    init_default_scope(scope_of(config))
    model = build_network(copy.deepcopy(config.model), str(study.file)).eval()
    for padding in study.paddings:
        kept = set_padding(model, padding).kept
        if scheme_of(model) != padding:
            layers = [
                f"{layer.name} ({layer.reason})"
                for layer in kept
                if layer.after != padding and is_padded_convolution(model.get_submodule(layer.name))
            ]
            problem = f"these cannot: {first_of(layers)}" if layers else "it has none"
            raise PreflightError(
                f"{study.file}: all padded convolutions of the model must be switched to {padding} "
                f"for a study, but {problem}. Choose another model, or compare this one without a "
                "study: train.py --padding, then border_eval.py"
            )
        for key, tile in _tiles(study):
            try:
                with torch.no_grad():
                    tile_predictor(model)(torch.zeros(1, 3, *tile))
            except ValueError as error:
                raise PreflightError(
                    f"{study.file}: the network cannot predict the tiles of study.{key}, "
                    f"{tile[0]} x {tile[1]} pixels, with {padding} padding: {error}. In a study "
                    "take larger tiles, smaller dilations or other paddings"
                ) from error


def _tiles(study: Study) -> list[tuple[str, tuple[int, int]]]:
    """(height, width) of all tiles, each with the key that gives it."""
    tiles = [("evaluation", p.tile) for p in study.plans if set(p.modes) - {"regular"}]
    if study.shift is not None:
        tiles.append(("shift", study.shift["tile"]))
    return [(key, pair(tile, "tile")) for key, tile in tiles]


class _Process:
    """One attempt to train a run."""

    def __init__(
        self, study: Study, run: StudyRun, train_tool: Path, machine: dict, lock: int
    ) -> None:
        self.run = run
        run.folder.mkdir(parents=True, exist_ok=True)
        self._attempt = {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "from_iteration": _resume_point(run.folder),
            "seconds": None,
            "exit_code": None,
        }
        self._state = {**read_state(run), "machine": machine, "status": "running"}
        self._state.pop("log_tail", None)
        self._state["attempts"].append(self._attempt)
        self._write()
        command = [
            *(sys.executable, str(train_tool), str(study.file)),
            *("--work-dir", str(run.folder), "--padding", run.padding, "--seed", str(run.seed)),
            *("--resume", "--cfg-options", *_OPTIONS),
        ]
        path = os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": str(machine["threads"]),
        }
        self._begin = time.monotonic()
        with open(run.folder / _LOG, "ab") as log:
            # A child holds the lock too: if this process is killed, nobody trains the same run.
            self._child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
            )

    def ended(self) -> bool:
        return self._child.poll() is not None

    @property
    def failed(self) -> bool:
        """Whether it was recorded as failed."""
        return self._state["status"] == "failed"

    def stop(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def record(self, interrupted: bool = False) -> str:
        """Write how the attempt ended, and return it in words."""
        code = self._child.returncode
        self._attempt.update(seconds=round(time.monotonic() - self._begin, 2), exit_code=code)
        if code == 0 and finished_run(self.run.folder):
            status = "finished"
        else:
            status = "interrupted" if interrupted else "failed"
        self._state["status"] = status
        if status == "failed":
            lines = (self.run.folder / _LOG).read_text(errors="replace").splitlines()
            self._state["log_tail"] = lines[-_LOG_TAIL:]
            status = f"failed with exit code {exit_name(code)}, see {self.run.folder / _LOG}"
        self._write()
        return status

    def _write(self) -> None:
        write_json(self._state, self.run.folder / _STATE)


def _is_finished(run: StudyRun) -> bool:
    # The last checkpoint is written before the last validation, and does not say how that went.
    return read_state(run)["status"] == "finished" and finished_run(run.folder) is not None


def _resume_point(folder: Path) -> int:
    """Iteration of the checkpoint that ``--resume`` goes on from; 0 if there is none."""
    try:
        checkpoint, _ = newest_checkpoint(folder)
    except ValueError:
        return 0  # train.py refuses to start, and its reason is recorded with the failed run
    return progress(checkpoint)[1] if checkpoint else 0


@contextmanager
def _lock(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreflightError(
                f"{path.parent}: another process trains this study; wait for it, or end it"
            ) from error
        yield file.fileno()


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise :class:`Interrupted`, once; further ones are ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in previous:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
