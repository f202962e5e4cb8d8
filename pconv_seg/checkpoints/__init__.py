"""Checkpoints: safe reading, and published ones for our networks."""

from .formats import FORMATS
from .importing import ImportReport, import_weights, network_of, save_weights
from .initializer import PublishedWeightsInit
from .loading import (
    build_network,
    load_checkpoint,
    load_weights,
    state_dict_of,
    use_safe_loading,
)
from .safe import CheckpointError, UnsafeCheckpointError, load_file
from .stored import stored_classes, stored_config, unregistered_types

__all__ = [
    "FORMATS",
    "CheckpointError",
    "ImportReport",
    "PublishedWeightsInit",
    "UnsafeCheckpointError",
    "build_network",
    "import_weights",
    "load_checkpoint",
    "load_file",
    "load_weights",
    "network_of",
    "save_weights",
    "state_dict_of",
    "stored_classes",
    "stored_config",
    "unregistered_types",
    "use_safe_loading",
]
