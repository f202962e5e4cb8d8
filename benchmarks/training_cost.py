"""What the paper's training costs: FLOPs, hours on GPUs, and how memory splits.

Counted, per image of the config's crop: the FLOPs of a training step (convolutions and matrix
products; a multiplication and an addition are two), and the bytes that autograd keeps for the
backward pass. Both come from torch, on tensors without data: a torch newer than 2.1 is needed, but
neither GPU nor memory.
Estimated: the hours. They follow from the counted FLOPs and from the stated speed of a GPU, and
nothing else: they were not measured.

    python benchmarks/training_cost.py
    python benchmarks/training_cost.py --peak 989 --utilisation 0.3    # H100, bfloat16
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from prettytable import PrettyTable
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import pconv_seg  # noqa: F401

CONFIGS = Path(__file__).parent.parent / "configs"
NETWORKS = {
    "ResNet50": "deeplabv3plus_r50_pd_cityscapes.py",
    "WideResNet38": "deeplabv3plus_wrn38_pd_cityscapes.py",
}
GB = 1e9
# The batch normalization after global pooling cannot be trained on one image.
_IMAGES = 2


class Step(NamedTuple):
    """Counts of a training step.

    Attributes:
        parameters: Number of parameters.
        flops: Per image, of forward and backward pass, and of what is computed again.
        activations: Bytes per image that are kept for the backward pass, in float32.
    """

    parameters: int
    flops: float
    activations: float


def count_step(cfg: Config, with_cp: bool = False) -> Step:
    """Count a training step.

    Args:
        cfg: Config of a segmentor, with ``crop_size``.
        with_cp: Recompute the blocks of the backbone in the backward pass.
    """
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.with_cp = with_cp
    with torch.device("meta"):
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    image = torch.empty(_IMAGES, 3, *cfg.crop_size, device="meta")
    target = torch.empty(_IMAGES, *cfg.crop_size, dtype=torch.long, device="meta")
    with ExitStack() as stack:
        if with_cp and hasattr(model.backbone, "mod1"):
            # WideResNet38 recomputes from the blocks' inputs, which no hook of autograd sees.
            for name, block in model.backbone.named_modules():
                if name.rpartition(".")[2].startswith("block"):
                    handle = block.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))
                    stack.callback(handle.remove)
        counter = stack.enter_context(FlopCounterMode(display=False))
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model.decode_head(model.extract_feat(image))
            logits = F.interpolate(logits, cfg.crop_size, mode="bilinear")
            loss = F.cross_entropy(logits, target)
        activations = sum(size for _, size in kept.values())
        loss.backward()
    return Step(
        sum(p.numel() for p in model.parameters()),
        counter.get_total_flops() / _IMAGES,
        activations / _IMAGES,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peak",
        type=float,
        default=156,
        help="TFLOP/s of a GPU at its data sheet (default: %(default)s, an A100's TF32)",
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.35,
        help="share of the peak that training reaches on one GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.9,
        help="speed of N GPUs as a share of N times that of one (default: %(default)s)",
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 16], help="(default: 1 8 16)")
    parser.add_argument("--batch", type=int, default=16, help="images per iteration (default: 16)")
    parser.add_argument("--iterations", type=int, default=31000, help="(default: 31000)")
    args = parser.parse_args()

    cost = PrettyTable(
        ["network", "crop", "TFLOP/image", "EFLOP in all"]
        + [f"hours on {n} GPU{'s' * (n > 1)}" for n in args.gpus],
        align="r",
    )
    memory = PrettyTable(
        ["network", "weights", "gradients", "momentum", "per image", "per image, with_cp"],
        align="r",
    )
    for name, file in NETWORKS.items():
        cfg = Config.fromfile(CONFIGS / file)
        step, recomputed = count_step(cfg), count_step(cfg, with_cp=True)
        flops = step.flops * args.batch * args.iterations
        speed = args.peak * 1e12 * args.utilisation
        hours = [flops / (speed * n * (args.efficiency if n > 1 else 1)) / 3600 for n in args.gpus]
        cost.add_row(
            [name, cfg.crop_size[0], f"{step.flops / 1e12:.2f}", f"{flops / 1e18:.2f}"]
            + [f"{h:.1f}" for h in hours]
        )
        weights = f"{4 * step.parameters / GB:.2f}"
        memory.add_row(
            [
                name,
                weights,
                weights,
                weights,
                f"{step.activations / GB:.2f}",
                f"{recomputed.activations / GB:.2f} "
                f"({recomputed.flops / step.flops - 1:+.0%} FLOPs)",
            ]
        )
    print(
        f"Estimate, not measured: {args.iterations} iterations of {args.batch} images; "
        f"{args.peak:g} TFLOP/s peak, {args.utilisation:.0%} of it used; several GPUs at "
        f"{args.efficiency:.0%} of linear scaling"
    )
    print(cost)
    print("Memory in GB (1e9 bytes), float32; activations at the end of the forward pass")
    print(memory)


if __name__ == "__main__":
    main()
