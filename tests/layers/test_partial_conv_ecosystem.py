"""The layer inside compilers, exporters, mmcv and mmengine."""

import copy
import io
import math
import pickle
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch._dynamo.testing
import torch.distributed as dist
from mmcv.cnn import ConvModule, build_conv_layer, fuse_conv_bn
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pconv_seg import PConv2d, partial_conv2d, set_padding
from pconv_seg.layers import PConv1d, PConv3d, ratios, scaling

NEWER_TORCH = torch.__version__ >= "2.6"
needs_newer_torch = pytest.mark.skipif(not NEWER_TORCH, reason="torch < 2.6")


class Net(nn.Module):
    """Convolutions with and without bias and padding, strided, dilated, grouped."""

    def __init__(self, conv=PConv2d):
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 4, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            conv(4, 4, 3, padding=6, dilation=6, groups=4),
            conv(4, 2, 1, padding=1),
            conv(2, 2, 2),
        )

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def net():
    net = Net()
    # Running statistics and affine parameters that a fusion cannot ignore.
    for name, value in net.layers[1].state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(4) + (0.5 if "var" in name else -0.5))
    return net.eval()


def images(height=33, width=40, batch=2):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(batch, 3, height, width, generator=generator)


SIZES = [(33, 40), (48, 31)]


@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_compiles_to_one_graph(net, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in SIZES:
        torch.testing.assert_close(compiled(images(*size)), net(images(*size)))


@pytest.mark.skipif(torch.__version__ < "2.8", reason="torch < 2.8 does not say what is known")
def test_compiled_code_has_maps_for_inputs_where_sizes_are_known():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    net = nn.Sequential(*(PConv2d(3, 3, 3, padding=i, dilation=i) for i in (1, 2, 1)))
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    torch.testing.assert_close(compiled(images()), net(images()))
    (graph,) = counter.graphs
    operations = {str(node.target) for node in graph.graph.nodes}
    assert not any("arange" in name for name in operations)
    # Layers of the same geometry share one: weights and biases, the images, two maps.
    assert sum(node.op == "placeholder" for node in graph.graph.nodes) == 3 * 2 + 1 + 2


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        PConv1d(3, 4, 5, padding=2, stride=3),
        PConv2d(3, 4, (2, 4), padding="same", dilation=(3, 1)),
        PConv2d(3, 4, 3, padding=(0, 2), stride=(2, 1)),
        PConv3d(3, 4, (1, 3, 5), padding=(0, 1, 4), dilation=(1, 1, 2)),
    ],
    ids=str,
)
def test_compiled_axes_each_have_their_options(layer, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    input = torch.randn(2, 3, *(11, 9, 14)[: layer.weight.dim() - 2])
    torch.testing.assert_close(compiled(input), layer(input))


def test_compiled_maps_are_kept_by_dtype():
    layer = PConv2d(3, 4, 7, padding=3)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        torch._dynamo.reset()
        layer, input = layer.to(dtype), images().to(dtype)
        found = torch.compile(layer, fullgraph=True, backend="eager")(input)
        torch.testing.assert_close(found, layer(input), rtol=tolerance, atol=tolerance)


def test_compiled_code_trains_after_inference_mode(net):
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager")
    with torch.inference_mode():
        compiled(images())
    found = torch.autograd.grad(compiled(images()).sum(), [*net.parameters()])
    expected = torch.autograd.grad(net(images()).sum(), [*net.parameters()])
    torch.testing.assert_close(found, expected)


@needs_newer_torch
def test_compiled_maps_are_in_memory_where_sizes_are_symbols(net):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    torch.testing.assert_close(compiled(images()), net(images()))
    (graph,) = counter.graphs
    maps = [node for node in graph.graph.nodes if node.target == "as_strided"]
    assert len(maps) == 3


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_gradients(net, dynamic):
    net = net.double().train()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")

    def gradients(model, size):
        input = images(*size).double().requires_grad_()
        return torch.autograd.grad(model(input).square().sum(), [input, *net.parameters()])

    for size in SIZES:
        torch.testing.assert_close(gradients(compiled, size), gradients(net, size))


@pytest.mark.parametrize("layer", [dict(kernel_size=11, padding=5), dict(kernel_size=1, padding=1)])
def test_compiled_layers_keep_bfloat16_and_leave_the_interior_alone(layer):
    """121 taps are no multiple of their float32 reciprocal; 1x1 has windows without any tap."""
    torch._dynamo.reset()
    conv = PConv2d(3, 4, **layer, bias=True, dtype=torch.bfloat16)
    input = torch.randn(1, 3, 24, 25, dtype=torch.bfloat16)
    with torch.no_grad():
        found = torch.compile(conv, fullgraph=True, backend="aot_eager")(input)
        without_bias = F.conv2d(input, conv.weight, None, padding=layer["padding"]).float()
        bias = conv.bias[:, None, None].float()
        plain = (without_bias + bias).bfloat16()
    assert found.dtype == torch.bfloat16
    margin = slice(layer["padding"], -layer["padding"])
    assert torch.equal(found[..., margin, margin], plain[..., margin, margin])
    taps = F.conv2d(
        torch.ones(1, 1, 24, 25), torch.ones(1, 1, *conv.kernel_size), None, 1, margin.start
    )
    expected = without_bias * conv.weight[0, 0].numel() / taps.clamp(min=1) + bias * (taps > 0)
    # Rounded once, by at most half a unit in the last place.
    torch.testing.assert_close(found.float(), expected, rtol=1.01 * 2**-8, atol=1e-7)


@needs_newer_torch
def test_dynamic_sizes_compile_once(net):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for size in SIZES:
            compiled(images(*size))
    assert counter.frame_count == 1


@needs_newer_torch
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_compile_with_dynamic_sizes(channels):
    torch._dynamo.reset()
    layer = PConv2d(3, 4, 3, padding=1, multi_channel=channels == 3)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    for size in SIZES:
        mask = torch.rand(2, channels, *size) > 0.5
        assert torch.equal(compiled(images(*size), mask), layer(images(*size), mask))


@needs_newer_torch
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_exports(net, dynamic, strict):
    dynamic_shapes = None
    if dynamic:
        height, width = (torch.export.Dim(name, min=16, max=512) for name in ("H", "W"))
        dynamic_shapes = {"x": {2: height, 3: width}}
    program = torch.export.export(net, (images(),), dynamic_shapes=dynamic_shapes, strict=strict)
    for size in SIZES if dynamic else SIZES[:1]:
        torch.testing.assert_close(program.module()(images(*size)), net(images(*size)))


@needs_newer_torch
@pytest.mark.parametrize("size", [(8, 10), (9, 11)])
def test_exports_padding_that_depends_on_the_size(size):
    net = Conv2dAdaptivePadding(2, 3, 3, stride=2)
    set_padding(net, "partial")
    dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(net, (torch.randn(2, 2, *size),), dynamic_shapes=(dims,))
    for shape in ((2, 2, 12, 16), (3, 2, 13, 17), (3, 2, 14, 19)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), net(x))


def assert_onnx_agrees(net, inputs, **options):
    """Export ``net`` with the first of ``inputs``, and run the ONNX file on all of them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (inputs[0],), buffer, **options)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    for input in inputs:
        (output,) = session.run(None, {name: input.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(output), net(input).detach(), rtol=1e-4, atol=1e-5
        )


@needs_newer_torch
def test_onnx_runs_in_onnxruntime_at_other_sizes(net):
    dims = {2: torch.export.Dim("H", min=16, max=512), 3: torch.export.Dim("W", min=16, max=512)}
    inputs = [images(), *(images(*size) for size in SIZES)]
    assert_onnx_agrees(net, inputs, dynamo=True, dynamic_shapes=(dims,), verbose=False)


@needs_newer_torch
@pytest.mark.parametrize("scheme", ["partial", "distribution"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_older_exporter_to_onnx_agrees(net, scheme, dynamic):
    set_padding(net, scheme)
    inputs = [images(), *(images(*size) for size in SIZES if dynamic)]
    axes = {"input": {2: "height", 3: "width"}} if dynamic else None
    assert_onnx_agrees(net, inputs, dynamo=False, input_names=["input"], dynamic_axes=axes)


@needs_newer_torch
@pytest.mark.parametrize("stride", [2, 3])
def test_onnx_pads_by_the_size_as_mmcv_does(stride):
    net = nn.Sequential(Conv2dAdaptivePadding(3, 4, 3, stride=stride))
    set_padding(net, "partial")
    assert_onnx_agrees(net, [images(8, 11)], dynamo=False)
    size = torch.export.Dim.DYNAMIC
    inputs = [images(24, 26), images(31, 41)]
    shapes = ({2: size, 3: size},)
    assert_onnx_agrees(net, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)


class Marked(torch.Tensor):
    """A tensor of another type, which says so of all that is made from it."""


@needs_newer_torch
@pytest.mark.parametrize("padding", [0, 1])
def test_compiles_for_subclasses_of_tensors(padding):
    layer = PConv2d(3, 4, 3, padding=padding)
    output = torch.compile(layer, backend="eager", fullgraph=True)(images().as_subclass(Marked))
    assert type(output) is Marked
    torch.testing.assert_close(output.as_subclass(torch.Tensor), layer(images()))


@needs_newer_torch
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("follow", ["forward", "backward", "both"])
def test_checkpoints_that_are_followed(net, follow, large, monkeypatch, fresh_plans):
    """What a mode sees may differ from what is done without it, but not what autograd saves."""
    monkeypatch.setattr(scaling, "_FEWEST_VALUES", 0 if large else math.inf)
    monkeypatch.setattr(ratios, "_COLUMNS", 2)
    net = net.double()
    input = images(60, 80).double().requires_grad_()
    (expected,) = torch.autograd.grad(net(input).square().sum(), input)
    with FlopCounterMode(display=False) if follow != "backward" else nullcontext():
        output = checkpoint(net, input, use_reentrant=False)
    with FlopCounterMode(display=False) if follow != "forward" else nullcontext():
        output.square().sum().backward()
    torch.testing.assert_close(input.grad, expected)


@needs_newer_torch
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_selective_checkpoints_keep_what_convolutions_put_out(
    net, masked, large, monkeypatch, fresh_plans
):
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def policy(context, operation, *args, **kwargs):
        saved = operation == torch.ops.aten.convolution.default
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    monkeypatch.setattr(scaling, "_FEWEST_VALUES", 0 if large else math.inf)
    monkeypatch.setattr(ratios, "_COLUMNS", 2)
    net = net.double()
    input = images(60, 80).double().requires_grad_()
    mask = (images(60, 80) > 0)[:, :1] if masked else None

    def forward(input):
        return net.layers[1:](net.layers[0](input, mask))

    output = checkpoint(
        forward,
        input,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )
    torch.testing.assert_close(
        torch.autograd.grad(output.square().sum(), input),
        torch.autograd.grad(forward(input).square().sum(), input),
    )


def test_jit_trace_follows_the_size(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, images())
    for size in SIZES:
        torch.testing.assert_close(traced(images(*size)), net(images(*size)))


def test_fx_keeps_the_layer_as_one_node(net):
    traced = torch.fx.symbolic_trace(net)
    targets = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"layers.0", "layers.3", "layers.4"} <= targets
    torch.testing.assert_close(traced(images()), net(images()))


def test_fx_of_a_layer_alone_says_what_to_trace():
    with pytest.raises(TypeError, match=r"PConv2d that is traced alone: trace nn\.Sequential\("):
        torch.fx.symbolic_trace(PConv2d(3, 4, 3, padding=1))


def test_fx_keeps_the_layer_with_a_mask_as_one_node():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = PConv2d(3, 2, 3, padding=1)

        def forward(self, x, mask):
            return self.conv(x, mask)

    model, mask = Net(), torch.rand(1, 1, 33, 40) > 0.5
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["conv"]
    assert torch.equal(traced(images(), mask), model(images(), mask))


def test_fx_keeps_the_function_as_one_node():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 3, 3, 3))

        def forward(self, x):
            return partial_conv2d(x, self.weight, padding=[1, 1])

    model = Net()
    traced = torch.fx.symbolic_trace(model)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert calls == [partial_conv2d]
    assert torch.equal(traced(images()), model(images()))


def test_autocast_follows_the_plain_layer(net):
    expected = net(images())
    with torch.autocast("cpu", torch.bfloat16):
        for enabled in (False, True):
            with torch.set_grad_enabled(enabled):
                output = net(images())
                assert output.dtype == torch.bfloat16
                torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.05)
        mask = torch.ones(1, 1, 33, 40)
        masked = PConv2d(3, 2, 31, padding=15, return_mask=True)
        output, _ = masked(images(), mask)
        torch.testing.assert_close(output.float(), masked(images())[0].float())


def test_deepcopy_and_pickle(net):
    for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(clone(images()), net(images()))


def test_distributed_data_parallel(net, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net.train()
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(net))
        for _ in range(2):
            wrapped(images()).sum().backward()
    finally:
        dist.destroy_process_group()
    for _ in range(2):
        net(images()).sum().backward()
    for ours, theirs in zip(wrapped.module.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_conv_bn_fusions(net):
    expected = net(images())
    torch.testing.assert_close(fuse_conv_bn(copy.deepcopy(net))(images()), expected)
    conv, bn = copy.deepcopy(net).layers[:2]
    fused = nn.utils.fusion.fuse_conv_bn_eval(conv, bn)
    assert isinstance(fused, PConv2d)
    torch.testing.assert_close(fused(images()), net.layers[:2](images()))


def conv_module(conv_cfg, **kwargs):
    module = ConvModule(
        3, 4, 3, padding=2, dilation=2, conv_cfg=conv_cfg, norm_cfg=dict(type="BN"), **kwargs
    )
    module.bn.running_mean += 0.3
    module.bn.running_var *= 1.7
    return module.eval()


def test_efficient_conv_bn_evaluation_of_conv_module():
    plain = conv_module(dict(type="PConv"))
    efficient = conv_module(dict(type="PConv"), efficient_conv_bn_eval=True)
    zeros = conv_module(None)
    for state in (zeros, efficient):
        state.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(efficient(images()), plain(images()))
        # Not only equal: the re-weighting is there.
        assert (plain(images()) - zeros(images())).abs().max() > 0.1


def test_efficient_conv_bn_evaluation_of_mmengine(net):
    expected = net(images())
    rewritten = copy.deepcopy(net)
    turn_on_efficient_conv_bn_eval(rewritten, "layers")
    graph = rewritten.layers.forward.__self__.graph
    assert [node.name for node in graph.nodes if "efficient" in node.name]
    torch.testing.assert_close(rewritten(images()), expected)
    for module in (net, rewritten):
        module.train()
    torch.testing.assert_close(rewritten(images()), net(images()))


@pytest.mark.parametrize("scope", ["mmengine", "mmseg", "pconv_seg"])
@pytest.mark.parametrize("type_", ["PConv", "pconv_seg.PConv", PConv2d])
def test_conv_cfg_in_every_scope(scope, type_):
    with DefaultScope.overwrite_default_scope(scope):
        layer = build_conv_layer(dict(type=type_), 3, 4, 3, padding=1)
        built = MODELS.build(
            dict(type=type_, in_channels=3, out_channels=4, kernel_size=3, padding=1)
        )
    assert type(layer) is type(built) is PConv2d
