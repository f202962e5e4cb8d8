"""Published weights as `init_cfg` of a config."""

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from .importing import import_weights
from .loading import load_checkpoint


@WEIGHT_INITIALIZERS.register_module(name="PublishedWeights")
class PublishedWeightsInit:
    """Initialize a network, or a backbone, with the original file of published weights.

    ``init_cfg=dict(type='PublishedWeights', checkpoint=FILE)`` differs from ``Pretrained`` in that
    names are translated, everything that is missing or does not fit is an error, and no code from
    the file runs. A backbone takes the trunk out of a file of a whole network. See
    :func:`import_weights` for the formats and for what is raised.

    Args:
        checkpoint: File, URL, or one of mmengine's named weights such as
            ``torchvision://resnet50``.
        format: Name of a format, or ``'auto'``.
    """

    def __init__(self, checkpoint: str, format: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.format = format

    def __call__(self, module: nn.Module) -> None:
        """Load; the ``init_cfg`` of parts of the module no longer counts."""
        content = load_checkpoint(self.checkpoint)
        state, report = import_weights(content, module, self.format, self.checkpoint)
        module.load_state_dict(state, strict=False)
        for part in module.modules():
            if hasattr(part, "init_weights"):
                part.is_init = True
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"PublishedWeights: loaded from {self.checkpoint}")
        print_log(str(report), logger="current")
