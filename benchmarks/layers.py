"""One convolution layer: 3x3 at several dilations, depthwise, the 7x7 stem, 1x1.

Forward runs without gradients; forward+backward computes the gradients of input and weight. Zero
and partial padding are compiled, too. 1x1 has no padding: all contenders are the same call there.
"""

import argparse
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from contenders import CONTENDERS, MASKS, PARTIAL, PEERS, ZEROS, check_close, switch
from measure import cuda_graph, memory_records, peak_bytes, progress, take_turns, time_records
from torch import nn

TITLE = "Layers"


@dataclass(frozen=True)
class Layer:
    """A convolution without bias, as before a batch normalisation, and the size of its input."""

    name: str
    channels: tuple[int, int]
    kernel_size: int
    size: tuple[int, int] = (64, 128)
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def build(self) -> nn.Sequential:
        padding = self.dilation * (self.kernel_size - 1) // 2
        conv = nn.Conv2d(
            *self.channels,
            self.kernel_size,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            bias=False,
        )
        return nn.Sequential(conv)


LAYERS = (
    *(Layer(f"3x3, dilation {d}", (128, 128), 3, dilation=d) for d in (1, 12, 24, 36)),
    Layer("3x3 depthwise", (256, 256), 3, groups=256),
    Layer("7x7 stem, stride 2", (3, 64), 7, size=(256, 512), stride=2),
    Layer("1x1", (256, 256), 1),
)
FORMATS = {
    "float32": (torch.float32, torch.contiguous_format),
    "bfloat16": (torch.bfloat16, torch.contiguous_format),
    "float32 channels_last": (torch.float32, torch.channels_last),
    "bfloat16 channels_last": (torch.bfloat16, torch.channels_last),
}
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
BATCH = {"cpu": 1, "cuda": 16}


def run(options: argparse.Namespace) -> Iterator[dict]:
    layers = LAYERS[:2] + LAYERS[5:6] if options.quick else LAYERS
    formats = ("float32", "bfloat16") if options.quick else FORMATS
    cases = [(layer, name) for layer in layers if options.only in layer.name for name in formats]
    for layer, name in progress(cases, TITLE):
        yield from _measure(layer, name, options)


def _measure(layer: Layer, format_name: str, options: argparse.Namespace) -> Iterator[dict]:
    torch.manual_seed(0)
    dtype, memory_format = FORMATS[format_name]
    plain = layer.build().to(options.device, dtype).to(memory_format=memory_format)
    images = torch.randn(BATCH[options.device], layer.channels[0], *layer.size)
    images = images.to(options.device, dtype).to(memory_format=memory_format).requires_grad_()
    eager = {}
    for contender in CONTENDERS:
        eager[contender] = deepcopy(plain)
        switch(eager[contender], contender)
    with torch.no_grad():
        seed = torch.randn_like(plain(images))

    def forward(model):
        def call():
            with torch.no_grad():
                return model(images)

        return call

    def both(model):
        leaves = (images, *model.parameters())
        # No gradients stay on the leaves: their release would count in the next call's memory.
        return lambda: torch.autograd.grad(model(images), leaves, seed)

    torch._dynamo.reset()
    compiled = {}
    for contender in (ZEROS, PARTIAL):
        compiled[contender] = torch.compile(deepcopy(eager[contender]), dynamic=False)
    modes = {"eager": eager, "compiled": compiled}
    for mode, models in modes.items():
        _check(layer, mode, models, eager[MASKS], forward, both, dtype)
        for what, make in (("forward", forward), ("forward+backward", both)):
            calls = {name: make(model) for name, model in models.items()}
            case = {"layer": layer.name, "format": format_name, "mode": mode, "pass": what}
            rounds = take_turns(calls, options.device, options.seconds, peers=PEERS)
            yield from time_records(case, rounds, ZEROS)
            peaks = {name: peak_bytes(call, options.device) for name, call in calls.items()}
            yield from memory_records(case, peaks, ZEROS)
            if options.device == "cuda" and mode == "eager" and what == "forward":
                # Launches from Python hide what the kernels of so small a layer cost.
                graphs = {name: cuda_graph(call) for name, call in calls.items()}
                rounds = take_turns(graphs, options.device, options.seconds, peers=PEERS)
                yield from time_records({**case, "mode": "CUDA graph"}, rounds, ZEROS)


def _check(layer, mode, models, reference, forward, both, dtype) -> None:
    """Partial padding must equal the mask convolution, in output and gradients."""
    ours = models[PARTIAL]
    check_close(f"{layer.name}, {mode}", forward(ours)(), forward(reference)(), TOLERANCES[dtype])
    for mine, theirs in zip(both(ours)(), both(reference)(), strict=True):
        check_close(f"{layer.name}, {mode}, gradients", mine, theirs, TOLERANCES[dtype])
