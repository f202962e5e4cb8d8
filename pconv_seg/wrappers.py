"""Models inside the wrappers of mmengine."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside data-parallel wrappers and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
