"""What all parts of the package ask of any model."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside data-parallel wrappers and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def takes_grey(model: nn.Module) -> bool:
    """Whether images for ``model`` have one channel, as its first convolution says."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return next((convolution.in_channels == 1 for convolution in convolutions), False)
