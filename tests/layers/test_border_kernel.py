"""The Triton kernel against PyTorch's operations; without a GPU in Triton's interpreter."""

import math
import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

GPU = torch.cuda.is_available()
pytest.importorskip("triton", minversion="3.0")

from pconv_seg import PConv1d, PConv3d, partial_conv2d  # noqa: E402
from pconv_seg.layers import border_kernel, partial_conv, ratios, scaling  # noqa: E402
from pconv_seg.layers.border_kernel import scale_border_  # noqa: E402
from pconv_seg.layers.plan import plan_of_size  # noqa: E402

DEVICE = torch.device("cuda" if GPU else "cpu")
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU")

# size, kernel, stride, padding, dilation
GEOMETRIES = [
    ((6, 7), 3, 1, 1, 1),
    ((10, 37), 3, 1, (2, 17), (2, 17)),  # more outputs than one program has, everywhere
    ((9, 8), 7, 2, 3, 1),
    ((6, 7), 3, 1, 12, 12),  # no interior
    ((13, 6), 3, 1, 4, 4),  # none along one axis
    ((4, 9), (1, 5), (1, 3), (0, 2), (1, 2)),  # no border along one axis
    ((7, 7), 2, (2, 1), ((0, 1), (0, 3)), (1, 3)),  # no border at the start
    ((4, 3), 1, 1, 1, 1),  # windows without any valid tap
    ((6, 7), 3, 1, 0, 1),  # nothing to scale
]
FORMATS = [torch.contiguous_format, torch.channels_last]


def plan_of(size, *options):
    pairs = [(o, o) if isinstance(o, int) else o for o in options]
    return plan_of_size(size, *pairs)


def draw(plan, dtype=torch.float64, memory_format=torch.contiguous_format, channels=70):
    values = torch.randn(2, channels, *plan.size, dtype=dtype)
    return values.to(DEVICE, memory_format=memory_format), torch.randn(channels).to(DEVICE, dtype)


@pytest.fixture
def kernel(monkeypatch, fresh_plans):
    """The kernel takes everything that it can take, on a CPU as on a GPU."""
    monkeypatch.setattr(scaling, "_MOST_BYTES_BY_MAP", (0, 0))
    if not GPU:
        # Otherwise a CPU scales small maps before anybody asks for a GPU.
        monkeypatch.setattr(scaling, "_FEWEST_VALUES", 0)
        monkeypatch.setattr(ratios, "_LARGEST_SHARE", math.inf)
        monkeypatch.setattr(partial_conv, "_is_plain", lambda tensor: False)
        monkeypatch.setattr(scaling, "_on_gpu", lambda tensor: True)
        monkeypatch.setattr(scaling, "_capturing", lambda: False)


@pytest.fixture(params=["kernel", "map", "strips"])
def way(request, monkeypatch, kernel):
    """Whatever a GPU may scale by: strips where the kernel cannot be launched."""
    if request.param == "map":
        monkeypatch.setattr(scaling, "_MOST_BYTES_BY_MAP", (math.inf, math.inf))
    if request.param == "strips":
        monkeypatch.setattr(scaling, "_kernel_for", lambda *args: None)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_border_is_scaled_as_strips_are(geometry, with_bias, memory_format):
    plan = plan_of(*geometry)
    values, bias = draw(plan, memory_format=memory_format)
    bias = bias if with_bias else None
    expected = scaling._scale_border_(values.clone(), bias, False, plan, None)
    interior = scaling._scale_border_(torch.ones_like(values), None, False, plan, None) == 1
    before = values.clone()
    assert scale_border_(values, bias, False, plan.frame, False) is None
    torch.testing.assert_close(values, expected)
    assert torch.equal(values[interior], before[interior])


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_sums_are_what_was_taken_away(geometry, memory_format):
    plan = plan_of(*geometry)
    values, _ = draw(plan, memory_format=memory_format)
    ratio = scaling._scale_border_(torch.ones_like(values), None, False, plan, None)
    expected = ((1 - ratio) * values * (ratio > 0)).sum((0, 2, 3))
    torch.testing.assert_close(scale_border_(values, None, False, plan.frame, True), expected)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_bias_is_added_on_the_way(geometry, memory_format):
    plan = plan_of(*geometry)
    values, bias = draw(plan, memory_format=memory_format)
    ratio = scaling._scale_border_(torch.ones_like(values), None, False, plan, None)
    expected = (values * ratio + bias[:, None, None]) * (ratio > 0)
    sums = (values * (ratio > 0)).sum((0, 2, 3))
    gradient = values.clone()
    torch.testing.assert_close(scale_border_(gradient, None, True, plan.frame, True), sums)
    torch.testing.assert_close(gradient, values * ratio)
    assert scale_border_(values, bias, True, plan.frame, False) is None
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", [PConv1d, PConv3d])
def test_maps_of_other_dimensions_are_left_to_operations(kernel, layer, bias):
    conv = layer(3, 4, 3, padding=1, bias=bias, device=DEVICE, dtype=torch.float64)
    input = torch.randn(2, 3, *[5] * (conv.weight.dim() - 2)).to(conv.weight)
    all_real = torch.ones_like(input[:1, :1])
    torch.testing.assert_close(conv(input), conv(input, all_real))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Half an ulp, and a whole one where the interpreter does not round to the nearest.
    [(torch.float32, 2**-22), (torch.bfloat16, 2**-8 if GPU else 2**-7), (torch.float16, 2**-11)],
    ids=str,
)
def test_values_are_rounded_once(dtype, tolerance):
    plan = plan_of((9, 8), 7, 2, 3, 1)
    values, bias = draw(plan, dtype, channels=16)
    expected = scaling._scale_border_(values.double(), bias.double(), False, plan, None)
    sums = scale_border_(values.clone(), None, False, plan.frame, True)
    assert sums.dtype == torch.float32
    apart = values - bias[:, None, None]
    expected_apart = scaling._scale_border_(apart.double(), None, False, plan, None)
    expected_apart += bias.double()[:, None, None]
    scale_border_(values, bias, False, plan.frame, False)
    torch.testing.assert_close(values.double(), expected, rtol=tolerance, atol=1e-6)
    scale_border_(apart, bias, True, plan.frame, False)
    torch.testing.assert_close(apart.double(), expected_apart, rtol=tolerance, atol=1e-6)


def test_nothing_is_done_to_an_empty_batch():
    plan = plan_of((6, 7), 3, 1, 1, 1)
    sums = scale_border_(torch.empty(0, 5, 6, 7, device=DEVICE), None, False, plan.frame, True)
    assert torch.equal(sums, torch.zeros(5, device=DEVICE))


def output_and_gradients(layer, leaves, memory_format, **mask):
    input, *others = leaves
    output = partial_conv2d(input.to(memory_format=memory_format), *others, *layer, **mask)
    if mask:
        output, _ = output
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    return output, torch.autograd.grad((output * seed).sum(), leaves)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions_equal_those_with_a_mask(geometry, with_bias, memory_format, way):
    (size, kernel_size, *layer) = geometry
    shape = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    leaves = [torch.randn(2, 4, *size), torch.randn(6, 4, *shape), torch.randn(6)][: 2 + with_bias]
    leaves = [leaf.double().to(DEVICE).requires_grad_() for leaf in leaves]
    if not with_bias:
        layer = [None, *layer]
    found = output_and_gradients(layer, leaves, memory_format)
    mask = torch.ones(1, 1, *size, device=DEVICE)
    expected = output_and_gradients(layer, leaves, memory_format, mask=mask)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(partial_conv2d(*leaves, *layer), expected[0])


@pytest.mark.parametrize("frozen", [(0, 1), (2,), (0, 2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_where_not_all_is_trained(groups, frozen, way):
    """The bias alone as well, which a convolution without it knows nothing of."""
    leaves = [torch.randn(2, 4, 6, 7), torch.randn(8, 4 // groups, 3, 3), torch.randn(8)]
    leaves = [leaf.double().to(DEVICE) for leaf in leaves]
    for number, leaf in enumerate(leaves):
        leaf.requires_grad_(number not in frozen)
    layer, mask = (1, 1, 1, groups), torch.ones(1, 1, 6, 7, device=DEVICE)
    found = output_and_gradients(layer, leaves, torch.contiguous_format)
    expected = output_and_gradients(layer, leaves, torch.contiguous_format, mask=mask)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "bias",
    [torch.zeros(1), torch.zeros(4), torch.zeros(3).double()],
    ids=["one for all", "one more", "another dtype"],
)
def test_a_bias_that_does_not_fit_is_refused_as_by_a_convolution(bias, kernel):
    input, weight = torch.randn(1, 2, 5, 6, device=DEVICE), torch.randn(3, 2, 3, 3, device=DEVICE)
    with pytest.raises(RuntimeError, match="bias"):
        partial_conv2d(input, weight, bias.to(DEVICE), padding=1)


def test_second_and_forward_derivatives(way):
    leaves = [torch.randn(shape) for shape in ((1, 1, 2, 3), (1, 1, 3, 3), (1,))]
    leaves = [leaf.double().to(DEVICE).requires_grad_() for leaf in leaves]

    def convolve(*leaves):
        return partial_conv2d(*leaves, padding=1)

    assert torch.autograd.gradcheck(convolve, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(convolve, leaves)


def test_forward_derivatives_where_no_gradient_is_recorded(way):
    shapes = (1, 2, 4, 5), (1, 2, 4, 5), (3, 2, 3, 3), (3,)
    input, tangent, *layer = (torch.randn(shape).double().to(DEVICE) for shape in shapes)
    with forward_ad.dual_level():
        output = partial_conv2d(forward_ad.make_dual(input, tangent), *layer, padding=1)
        found = forward_ad.unpack_dual(output).tangent
    torch.testing.assert_close(found, partial_conv2d(tangent, layer[0], padding=1))


def test_gradients_of_several_outputs_at_once(kernel):
    input = torch.randn(1, 2, 5, 6, device=DEVICE, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, device=DEVICE, dtype=torch.float64)
    output = partial_conv2d(input, weight, padding=1)
    seeds = torch.randn(3, *output.shape, device=DEVICE, dtype=torch.float64)
    (together,) = torch.autograd.grad(output, input, seeds, True, is_grads_batched=True)
    for seed, found in zip(seeds, together, strict=True):
        (one,) = torch.autograd.grad(output, input, seed, True)
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("limits", [(4 * 3 * 30, 0), (4 * 3 * 30 - 1, 4 * 3 * 30)])
def test_bytes_decide_between_map_and_kernel(limits, records, kernel, monkeypatch):
    by_map = []
    kept_ratio_map = scaling._kept_ratio_map
    monkeypatch.setattr(scaling, "_MOST_BYTES_BY_MAP", limits)
    monkeypatch.setattr(
        scaling, "_kept_ratio_map", lambda *args: by_map.append(True) or kept_ratio_map(*args)
    )
    input = torch.randn(1, 2, 5, 6, device=DEVICE, requires_grad=records)
    weight = torch.randn(3, 2, 3, 3, device=DEVICE)
    expected = partial_conv2d(input, weight, padding=1, mask=torch.ones(1, 1, 5, 6).to(DEVICE))[0]
    torch.testing.assert_close(partial_conv2d(input, weight, padding=1), expected)
    assert bool(by_map) == (limits[records] == 4 * 3 * 30)


class Seen(TorchDispatchMode):
    """The names of operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


def test_who_follows_operations_sees_the_scaling(kernel):
    input, weight = torch.randn(1, 2, 5, 6, device=DEVICE), torch.randn(3, 2, 3, 3, device=DEVICE)
    with Seen() as forward:
        partial_conv2d(input, weight, padding=1)
    assert forward.names & {"aten.mul_.Tensor", "aten.mul_.Scalar"}
    output = partial_conv2d(input.requires_grad_(), weight, padding=1)
    with Seen() as backward:
        output.backward(torch.ones_like(output))
    assert backward.names & {"aten.mul_.Tensor", "aten.mul_.Scalar"}


@pytest.mark.parametrize("adds_bias", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_nothing_is_loaded_while_a_graph_is_captured(memory_format, adds_bias, kernel, monkeypatch):
    """CUDA forbids it: then the kernel is used only if it was loaded before."""
    capturing, loads = [True], []
    monkeypatch.setattr(scaling, "_border_kernels", {})
    monkeypatch.setattr(scaling, "_capturing", lambda: capturing[0])
    jit = border_kernel._scale_border
    monkeypatch.setattr(border_kernel, "_scale_border", Launches(jit, loads))
    plan = plan_of((9, 8), 7, 2, 3, 1)
    values, bias = draw(plan, memory_format=memory_format, channels=3)
    assert scaling._kernel_for(values, plan, adds_bias) is None
    assert not loads
    capturing[0] = False
    scale = scaling._kernel_for(values, plan, adds_bias)
    loaded = len(loads)
    capturing[0] = True
    assert scaling._kernel_for(values, plan, adds_bias) is scale
    biases = bias, bias.float(), torch.cat([bias, bias])[1:][: len(bias)]
    for options in ((None, False), (None, True), *((bias, False) for bias in biases)):
        scale(values, options[0], adds_bias, plan.frame, options[1])
    assert {*loads[loaded:]} <= {*loads[:loaded]}


def test_values_that_begin_between_16_bytes_and_biases_with_gaps(kernel):
    plan = plan_of((6, 7), 3, 1, 1, 1)
    values, _ = draw(plan, channels=3)
    apart = torch.cat([values.flatten(), values.flatten()[:1]])[1:].view(values.shape)
    assert scaling._kernel_for(apart, plan, False) is None
    bias = torch.randn(3, 2, device=DEVICE, dtype=torch.float64)[:, 0]
    expected = scaling._scale_border_(values.clone(), bias, False, plan, None)
    scale_border_(values, bias, False, plan.frame, False)
    torch.testing.assert_close(values, expected)


def test_bounds_of_the_kernel(kernel):
    """CUDA's grid ends at 65535 images, 32 bits at twice the pixels; complex numbers are none."""
    options = 3, 1, 1, 1
    values = torch.zeros(65536, 1, 1, 1, device=DEVICE)
    plan = plan_of((1, 1), *options)
    assert scaling._kernel_for(values[:65535], plan, False) is not None
    assert scaling._kernel_for(values, plan, False) is None
    assert scaling._kernel_for(values[:1], plan_of((2**15, 2**15), *options), False) is not None
    assert scaling._kernel_for(values[:1], plan_of((2**15, 2**15 + 1), *options), False) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a compiler that does not know them
        assert scaling._kernel_for(values[:1].to(torch.complex64), plan, False) is None


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_operations_scale_where_triton_does_not_work(error, kernel, monkeypatch):
    """Which is said once, unless there is none."""

    def fail(*args):
        raise error("no compiler")

    monkeypatch.setattr(scaling, "_border_kernels", {})
    monkeypatch.setattr(border_kernel, "load", fail)
    input, weight = (torch.randn(s).double().to(DEVICE) for s in ((2, 3, 6, 7), (4, 3, 3, 3)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = [partial_conv2d(input, weight, padding=1) for _ in range(2)]
    expected, _ = partial_conv2d(input, weight, padding=1, mask=torch.ones_like(input[:1, :1]))
    torch.testing.assert_close(outputs, [expected, expected])
    says = f"Triton does not work on {input.device}, so partial padding takes more launches there: "
    assert [str(warning.message) for warning in caught] == (
        [] if error is ImportError else [f"{says}RuntimeError: no compiler"]
    )


@needs_gpu
@pytest.mark.parametrize("most_bytes_by_map", [0, math.inf])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_interior_is_that_of_pytorch_to_the_bit(
    dtype, memory_format, most_bytes_by_map, monkeypatch
):
    monkeypatch.setattr(scaling, "_MOST_BYTES_BY_MAP", (most_bytes_by_map,) * 2)
    input, weight, bias = torch.randn(2, 16, 70, 90), torch.randn(32, 16, 3, 3), torch.randn(32)
    input = input.to(DEVICE, dtype, memory_format=memory_format)
    weight, bias = weight.to(DEVICE, dtype), bias.to(DEVICE, dtype)
    inside = (..., slice(1, -1), slice(1, -1))
    expected = torch.nn.functional.conv2d(input, weight, bias, padding=1)
    found = partial_conv2d(input, weight, bias, padding=1)
    assert torch.equal(found[inside], expected[inside])


@pytest.mark.parametrize("geometry", [GEOMETRIES[0], GEOMETRIES[3]], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_checkpoint_that_is_followed_once(with_bias, geometry, kernel):
    """Followed, it takes strips instead of the kernel, but saves no more."""
    size, kernel_size, *layer = geometry
    input = torch.randn(1, 2, *size, device=DEVICE, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, kernel_size, kernel_size, device=DEVICE, dtype=torch.float64)
    bias = torch.randn(3, device=DEVICE, dtype=torch.float64) if with_bias else None

    def convolve(input):
        return partial_conv2d(input, weight, bias, *layer)

    (expected,) = torch.autograd.grad(convolve(input).square().sum(), input)
    with Seen():
        output = checkpoint(convolve, input, use_reentrant=False)
    (found,) = torch.autograd.grad(output.square().sum(), input)
    torch.testing.assert_close(found, expected)


class Launches:
    """Notes for what a kernel is compiled at each launch."""

    def __init__(self, kernel, found):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def launch(*args, **constants):
            given = tuple(
                (arg.dtype, arg.data_ptr() % 16) if isinstance(arg, torch.Tensor) else type(arg)
                for arg in args
            )
            self.found.append((given, *sorted(constants.items(), key=str)))
            self.kernel[grid](*args, **constants)

        return launch


@needs_gpu
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("size", [(12, 9), (600, 500)])
def test_a_graph_replays_the_scaling(size, warm, monkeypatch):
    """Also if it is captured before any other call."""
    monkeypatch.setattr(scaling, "_border_kernels", {})
    inputs = torch.randn(2, 1, 4, *size, device=DEVICE, dtype=torch.float64)
    weight = torch.randn(4, 4, 3, 3, device=DEVICE, dtype=torch.float64)
    static = inputs[0].clone()
    graph = torch.cuda.CUDAGraph()
    convolve = partial_conv2d if warm else torch.nn.functional.conv2d
    convolve(static, weight, padding=1)
    with torch.cuda.graph(graph):
        output = partial_conv2d(static, weight, padding=1)
    for input in inputs:
        static.copy_(input)
        graph.replay()
        expected = partial_conv2d(input.cpu(), weight.cpu(), padding=1)
        torch.testing.assert_close(output.cpu(), expected)
