"""Runs: configs from command lines, checks before a start, training that can be interrupted."""

from .checkpoint_hook import ResumableCheckpointHook
from .config_parts import scope_of
from .launch import (
    add_config_options,
    add_run_arguments,
    build_test_config,
    build_training_config,
    read_config,
)
from .preflight import check_testing, check_training, check_work_dir
from .problems import PreflightError
from .processes import join_processes
from .runner import build_runner, naming_types
from .stop_hooks import STOPPED, FiniteLossHook, StopOnSignalHook
from .train_loop import ResumableTrainLoop

__all__ = [
    "STOPPED",
    "FiniteLossHook",
    "PreflightError",
    "ResumableCheckpointHook",
    "ResumableTrainLoop",
    "StopOnSignalHook",
    "add_config_options",
    "add_run_arguments",
    "build_runner",
    "build_test_config",
    "build_training_config",
    "check_testing",
    "check_training",
    "check_work_dir",
    "join_processes",
    "naming_types",
    "read_config",
    "scope_of",
]
