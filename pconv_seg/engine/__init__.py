"""What `tools/train.py` and `tools/test.py` share: configs from flags, and checks before a run."""

from .launch import add_run_arguments, build_test_config, build_training_config
from .preflight import PreflightError, check_testing, check_training

__all__ = [
    "PreflightError",
    "add_run_arguments",
    "build_test_config",
    "build_training_config",
    "check_testing",
    "check_training",
]
