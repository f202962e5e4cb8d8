"""The paper's networks (Table 1 of arXiv 1811.11718): inference, first call, training step.

One network is switched between the contenders, so all have the same weights. "First call" is an
inference after everything that a contender keeps from earlier calls was dropped. A training step is
forward, cross entropy, backward and SGD. Compiled are zero and partial padding alone; compiling is
not part of the time. On a GPU inference is replayed from a CUDA graph, too. Peak memory is what
PyTorch hands out during a call, above weights and images.
"""

import argparse
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import CONTENDERS, MASKS, PARTIAL, PEERS, ZEROS, check_close, forget, switch
from measure import cuda_graph, memory_records, peak_bytes, progress, take_turns, time_records
from mmcv.cnn import VGG
from mmengine import Config
from mmengine.registry import init_default_scope
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import Tensor, nn

TITLE = "Networks"
GOALS = {"inference": 1.01, "first call": 1.05, "training step": 1.02}
COMPILED_GOAL = MEMORY_GOAL = 1.005
CLASSES = 19
CONFIGS = Path(__file__).parents[1] / "configs"


class Classifier(nn.Module):
    """A backbone, and a head that makes logits of its last output."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[-1])


class Segmentor(nn.Module):
    """Backbone and head of one of the configs: logits at the size that the head gives."""

    def __init__(self, name: str) -> None:
        super().__init__()
        init_default_scope("mmseg")
        cfg = Config.fromfile(CONFIGS / f"deeplabv3plus_{name}_zero_cityscapes.py").model
        cfg.decode_head.norm_cfg = cfg.backbone.norm_cfg = dict(type="BN")
        cfg.backbone.init_cfg = None
        self.backbone, self.head = MODELS.build(cfg.backbone), MODELS.build(cfg.decode_head)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def vgg16() -> nn.Module:
    return Classifier(VGG(16, with_bn=True, num_classes=CLASSES, bn_eval=False), nn.Identity())


def resnet50() -> nn.Module:
    backbone = ResNet(depth=50, out_indices=(3,), init_cfg=[])
    return Classifier(
        backbone, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, CLASSES))
    )


@dataclass(frozen=True)
class Network:
    """How to build a network, and the shapes (N, H, W) of its images, by device.

    The map that a dilation of 36 sees at output stride 8 must be larger than 36 for reflection.
    """

    name: str
    build: Callable[[], nn.Module]
    inference: dict[str, tuple[int, int, int]]
    training: dict[str, tuple[int, int, int]]


def _classifier(name: str, build: Callable[[], nn.Module], batch: int) -> Network:
    """On a GPU with the paper's batch: 256 on 8 GPUs."""
    batches = {"cpu": (batch, 224, 224), "cuda": (32, 224, 224)}
    return Network(name, build, {**batches, "cpu": (1, 224, 224)}, batches)


def _segmentor(name: str, config: str, crop: int) -> Network:
    """On a GPU with whole images of Cityscapes, and the batch and crop of the configs."""
    return Network(
        name,
        lambda: Segmentor(config),
        {"cpu": (1, 320, 640), "cuda": (1, 1024, 2048)},
        {"cpu": (2, 320, 320), "cuda": (2, crop, crop)},
    )


NETWORKS = (
    _classifier("VGG16-BN", vgg16, batch=4),
    _classifier("ResNet50", resnet50, batch=8),
    _segmentor("DeepLabV3+ R50", "r50", crop=896),
    _segmentor("DeepLabV3+ WRN38", "wrn38", crop=736),
)


def run(options: argparse.Namespace) -> Iterator[dict]:
    networks = NETWORKS[:2] if options.quick else NETWORKS
    cases = [
        (network, what, mode)
        for network in networks
        for what in GOALS
        for mode in ("eager", "compiled")
        if options.only in f"{network.name} {what} {mode}"
        and (mode == "eager" or (what != "first call" and not options.quick))
    ]
    for network, what, mode in progress(cases, TITLE):
        torch.manual_seed(0)
        model = network.build().to(options.device)
        trains = what == "training step"
        shapes = network.training if trains else network.inference
        bench = Bench(network.name, model.train(trains), shapes[options.device], options)
        measure = bench.measure if mode == "eager" else bench.measure_compiled
        yield from measure(what, bench.step if trains else bench.predict)


class Bench:
    """One network with images of one shape."""

    def __init__(self, name: str, model: nn.Module, shape: tuple[int, int, int], options) -> None:
        self.model, self.options = model, options
        self.images = torch.randn(shape[0], 3, *shape[1:], device=options.device)
        self.case = {"network": name, "images": "x".join(map(str, shape))}
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def predict(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(self.images)

    def step(self, model: nn.Module) -> Tensor:
        logits = model(self.images)
        target = torch.zeros_like(logits[:, 0], dtype=torch.long)
        loss = F.cross_entropy(logits, target)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def measure(self, what: str, call: Callable[[nn.Module], Tensor]) -> Iterator[dict]:
        """Time and peak memory of ``call`` in all contenders."""
        model, device, seconds = self.model, self.options.device, self.options.seconds
        case = {**self.case, "what": what, "mode": "eager"}
        first = what == "first call"

        def before(contender: str) -> None:
            switch(model, contender)
            if first:
                forget(model)

        calls = dict.fromkeys(CONTENDERS, lambda: call(model))
        self._check(dict.fromkeys((PARTIAL, MASKS), model), before)
        rounds = take_turns(calls, device, seconds, before, repeat=not first, peers=PEERS)
        yield from time_records(case, rounds, ZEROS, {PARTIAL: GOALS[what]})
        if first:
            return
        if device == "cuda" and what == "inference":
            graphs = {}
            for contender in CONTENDERS:
                switch(model, contender)
                graphs[contender] = cuda_graph(calls[contender])
            rounds = take_turns(graphs, device, seconds, peers=PEERS)
            graphs.clear()  # Their memory must not stand in the way of what follows.
            replayed = {**case, "mode": "CUDA graph"}
            yield from time_records(replayed, rounds, ZEROS, {PARTIAL: GOALS[what]})
        peaks = {}
        for contender in CONTENDERS:
            before(contender)
            peaks[contender] = peak_bytes(calls[contender], device)
        yield from memory_records(case, peaks, ZEROS, {PARTIAL: MEMORY_GOAL})

    def measure_compiled(self, what: str, call: Callable[[nn.Module], Tensor]) -> Iterator[dict]:
        """The same for zero and partial padding, compiled."""
        torch._dynamo.reset()
        # Other modules with the same tensors: one set of weights, and one optimizer for them.
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        models = {}
        for contender in (ZEROS, PARTIAL):
            twin = deepcopy(self.model, dict(shared))
            switch(twin, contender)
            models[contender] = torch.compile(twin, dynamic=False)
        if what == "inference":  # Compiled dropout draws other numbers.
            switch(self.model, MASKS)
            self._check({PARTIAL: models[PARTIAL], MASKS: self.model})
        calls = {name: lambda model=model: call(model) for name, model in models.items()}
        case = {**self.case, "what": what, "mode": "compiled"}
        device = self.options.device
        rounds = take_turns(calls, device, self.options.seconds)
        yield from time_records(case, rounds, ZEROS, {PARTIAL: COMPILED_GOAL})
        peaks = {name: peak_bytes(run, device) for name, run in calls.items()}
        yield from memory_records(case, peaks, ZEROS, {PARTIAL: MEMORY_GOAL})

    def _check(self, models: dict[str, nn.Module], before=lambda name: None) -> None:
        """Partial padding must predict what the mask convolution does."""
        outputs = []
        # In TF32 what differs in the last bit of a float32 is soon rounded to other values.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for contender, model in models.items():
                before(contender)
                torch.manual_seed(0)  # The same dropout in training.
                outputs.append(self.predict(model))
        check_close(self.case["network"], *outputs, 1e-3)
