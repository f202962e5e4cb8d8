import pytest
import torch
from torch import nn


@pytest.fixture
def randomized():
    """Gives every parameter and statistic of a model a random value, so that all of them count."""

    def randomize(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for name, value in model.state_dict().items():
            if name.endswith(("running_var", "bias")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point():
                fan_in = value[0].numel() if value.dim() == 4 else 1
                value.normal_(std=fan_in**-0.5, generator=generator)
        return model

    return randomize
