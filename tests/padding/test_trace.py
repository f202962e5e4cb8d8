"""Shares of outputs that see padding, against hand-made counts and against perturbation."""

import copy
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from torch import nn

from pconv_seg import PConv2d, padding_report, partial_conv2d, set_padding
from pconv_seg.padding import SCHEMES
from pconv_seg.visualization import plot_padding, save_figure


def only(model, shape):
    (operation,) = padding_report(model, shape).operations
    return operation


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("conv", "seeing"),
    [
        # 10 x 16 outputs: the outermost ring.
        (nn.Conv2d(3, 1, 3, padding=1), 10 * 16 - 8 * 14),
        # Three pixels at every side.
        (nn.Conv2d(3, 1, 3, padding=3, dilation=3), 10 * 16 - 4 * 10),
        # 5 x 8 outputs at 0, 2, ..., 8 and 0, 2, ..., 14: the last window ends on the last pixel.
        (nn.Conv2d(3, 1, 3, stride=2, padding=1), 5 * 8 - 4 * 7),
        # The same outputs, but one pixel behind and none before.
        (Conv2dAdaptivePadding(3, 1, 3, stride=2), 5 * 8 - 4 * 7),
        # Rows only.
        (nn.Conv2d(3, 1, (5, 1), padding=(2, 0)), 10 * 16 - 6 * 16),
        # An even kernel under 'same': one pixel behind.
        pytest.param(
            nn.Conv2d(3, 1, 2, padding="same"),
            10 * 16 - 9 * 15,
            marks=pytest.mark.filterwarnings("ignore:Using padding='same'"),
        ),
    ],
    ids=repr,
)
def test_convolutions_have_the_same_share_under_all_schemes(conv, seeing, scheme):
    conv = copy.deepcopy(conv)
    set_padding(conv, scheme)
    operation = only(nn.Sequential(conv), (10, 16))
    assert (operation.name, operation.kind, operation.scheme) == ("0", "conv2d", scheme)
    assert operation.kernel == conv.kernel_size
    assert operation.dilation == conv.dilation
    assert operation.output_size == conv(torch.zeros(1, 3, 10, 16)).shape[2:]
    assert operation.seeing == seeing
    assert operation.reason == ("set_padding reaches them" if scheme == "zeros" else "")


class Functions(nn.Module):
    """Padded calls that no layer makes."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


# Padding, outputs that see it, and all outputs: one pixel at every side of 10 x 16, and a window
# of 3 x 3 around each of these or around every other one.
RING = ((1, 1),) * 2, 160 - 8 * 14, (10, 16)
HALVED = ((1, 1),) * 2, 40 - 4 * 7, (5, 8)
POOL = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, divisor_override=1)


@pytest.mark.parametrize(
    ("model", "kind", "scheme", "padding", "seeing", "outputs"),
    [
        (nn.MaxPool2d(3, 2, 1), "max_pool2d", "-inf", *HALVED),
        (nn.MaxPool2d(3, 2, 1, return_indices=True), "max_pool2d", "-inf", *HALVED),
        (nn.AvgPool2d(3, 1, 1), "avg_pool2d", "zeros", *RING),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "avg_pool2d", "partial", *RING),
        # A given divisor counts everything.
        *(
            (Functions(partial(POOL, count_include_pad=counts)), "avg_pool2d", "zeros", *RING)
            for counts in (True, False)
        ),
        # No padding, but the last windows hang over: 4 x 6 windows, 3 x 5 inside.
        (
            Functions(partial(F.avg_pool2d, kernel_size=3, ceil_mode=True)),
            "avg_pool2d",
            "partial",
            ((0, 0),) * 2,
            24 - 15,
            (4, 6),
        ),
        # 20 x 32 outputs, of which one at every side lacks a term.
        (
            nn.ConvTranspose2d(3, 1, 4, stride=2, padding=1),
            "conv_transpose2d",
            "zeros",
            ((1, 1),) * 2,
            640 - 18 * 30,
            (20, 32),
        ),
        (nn.Unfold(3, padding=1), "unfold", "zeros", *RING),
        (nn.ZeroPad2d((1, 2, 0, 3)), "pad", "zeros", ((0, 3), (1, 2)), 13 * 19 - 160, (13, 19)),
        # One column is cropped.
        (
            Functions(partial(F.pad, pad=(-1, 2, 0, 0))),
            "pad",
            "zeros",
            ((0, 0), (-1, 2)),
            10 * 2,
            (10, 17),
        ),
        # As exported programs write the stride that is the kernel's: 2 x 4 windows inside.
        (
            Functions(partial(F.avg_pool2d, kernel_size=3, stride=[], padding=1)),
            "avg_pool2d",
            "zeros",
            ((1, 1),) * 2,
            24 - 8,
            (4, 6),
        ),
        (nn.ReflectionPad2d(2), "pad", "reflect", ((2, 2),) * 2, 14 * 20 - 160, (14, 20)),
        (nn.ConstantPad2d(1, 0.5), "pad", "constant", ((1, 1),) * 2, 12 * 18 - 160, (12, 18)),
        (
            Functions(lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 4, 0, 2))),
            "pad",
            "zeros",
            ((0, 2), (0, 4)),
            12 * 20 - 160,
            (12, 20),
        ),
        *(
            (
                Functions(partial(conv, weight=torch.ones(1, 3, 3, 3, device="meta"), padding=1)),
                *row,
            )
            for conv, *row in (
                (F.conv2d, "conv2d", "zeros", *RING),
                (partial_conv2d, "partial_conv2d", "partial", *RING),
            )
        ),
    ],
)
def test_other_operations(model, kind, scheme, padding, seeing, outputs):
    operation = only(nn.Sequential(model), (10, 16))
    assert (operation.name, operation.kind) == ("0", kind)
    assert operation.scheme == scheme
    assert operation.padding == padding
    assert operation.output_size == outputs
    assert operation.seeing == seeing
    assert operation.share == seeing / (outputs[0] * outputs[1])
    assert bool(operation.reason) == (scheme == "zeros")


@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 3, 0), (0, 0, 0, 0, 1, 1), (1, 0, 0, 0, 0, 2)])
def test_explicit_padding_of_volumes_has_three_axes(pads):
    operation = only(nn.ConstantPad3d(pads, 0.0), (1, 2, 4, 5, 6))
    padded = F.pad(torch.zeros(4, 5, 6), pads, value=1)
    assert operation.padding == (pads[4:], pads[2:4], pads[:2])
    assert operation.output_size == padded.shape
    assert operation.seeing == padded.sum()


class PadsInTraining(nn.Module):
    def forward(self, x):
        return F.pad(x, (1, 1)) if self.training else x


def test_the_forward_is_one_of_evaluation():
    model = PadsInTraining().train()
    assert padding_report(model, (10, 16)).operations == ()
    assert model.training


def test_what_does_not_pad_has_no_row():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.Conv2d(4, 4, 1),
        Functions(lambda x: F.pad(x, (0, 0, 0, 0)).unfold(2, 3, 1)),
    )
    trace = padding_report(model, (10, 16))
    assert trace.operations == ()
    assert trace.total_share == 0


def test_layers_with_a_forward_of_their_own_say_why_they_stay():
    model = nn.Sequential(ConvWS2d(3, 4, 3, padding=1))
    set_padding(model, "partial")
    operation = only(model, (10, 16))
    assert (operation.scheme, operation.seeing) == ("zeros", 160 - 8 * 14)
    assert operation.reason == "ConvWS2d has a forward of its own"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(1, 1, (2, 5), stride=(3, 1), padding=(1, 3)),
        Conv2dAdaptivePadding(1, 1, 5, stride=3),
        nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1, dilation=2),
        nn.ConvTranspose2d(1, 1, 5, stride=3),
        nn.AvgPool2d(4, stride=3, padding=2),
        nn.AvgPool2d(4, stride=3, padding=1, ceil_mode=True),
    ],
    ids=repr,
)
def test_share_is_what_padding_can_change(layer):
    """With weights and input of ones, exactly the outputs that see padding are not the largest."""
    layer = copy.deepcopy(layer).double()
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    if isinstance(layer, nn.AvgPool2d):
        layer.divisor_override = 1
    output = layer(torch.ones(1, 1, 11, 14, dtype=torch.float64))[0, 0]
    if isinstance(layer, nn.ConvTranspose2d):
        # The number of terms has a period; an input that goes on at all ends has them all.
        more, stride = 8, layer.stride[0]
        whole = layer(torch.ones(1, 1, 11 + 2 * more, 14 + 2 * more, dtype=torch.float64))[0, 0]
        start = more * stride
        reference = whole[start : start + output.shape[0], start : start + output.shape[1]]
    else:
        reference = output.max().expand_as(output)
    operation = only(nn.Sequential(layer), (1, 1, 11, 14))
    assert operation.output_size == output.shape
    assert operation.seeing == (output != reference).sum()


def test_a_network_in_running_order():
    shared = nn.Conv2d(8, 8, 3, padding=4, dilation=4)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Sequential(shared, nn.ReLU()), shared
    )
    model.train()
    state = copy.deepcopy(model.state_dict())
    trace = padding_report(model, (16, 16))
    assert [operation.name for operation in trace.operations] == ["0", "1.0", "1.0"]
    assert [operation.seeing for operation in trace.operations] == [64 - 49, 64, 64]
    assert trace.total_share == (15 + 64 + 64) / (3 * 64)
    # The model itself has not run.
    assert model.training
    assert not model[0]._forward_hooks
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert padding_report(model, (2, 3, 16, 16)).operations == trace.operations
    model[0] = nn.Conv2d(1, 8, 3, stride=2, padding=1)  # for grey images
    assert padding_report(model, (16, 16)).operations == trace.operations

    text = str(trace)
    assert "74.5% of all these outputs see padding" in text
    assert "zeros in 3: set_padding reaches them" in text
    row = next(line for line in text.splitlines() if line.startswith("| 0 "))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("0", "conv2d", "3x3", "1x1", "1x1", "zeros", "8x8", "23.4%", "█████")
    ]
    written = json.loads(json.dumps(trace.as_dict()))
    assert written["total_share"] == trace.total_share
    assert [row["share"] for row in written["operations"]] == [15 / 64, 1, 1]


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(input=x)


class PlainTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.scale, self.weights = torch.ones(3, 1, 1), [nn.Parameter(torch.ones(3, 1, 1))]

    def forward(self, x):
        return self.conv(self.scale * x) * self.weights[0]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.utils.weight_norm(nn.Conv2d(3, 3, 3, padding=1)),
        lambda: torch.nn.utils.spectral_norm(nn.Conv2d(3, 3, 3, padding=1)),
        lambda: ConvModule(3, 3, 3, padding=1, with_spectral_norm=True),
        lambda: torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1)),
        PlainTensors,
        lambda: torch.compile(nn.Conv2d(3, 3, 3, padding=1), backend="eager"),
    ],
    ids=["weight_norm", "spectral", "ConvModule", "new_weight_norm", "tensors", "compiled"],
)
def test_tensors_wherever_a_model_keeps_them(build, request):
    model = build()
    if torch.__version__ < "2.6" and "weight_norm" in request.node.callspec.id:
        pytest.skip("this torch has no norm of weights on meta")
    model(torch.ones(1, 3, 10, 16))  # as in training: norms of weights keep results
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    assert only(model, (10, 16)).seeing == 160 - 8 * 14
    assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items())
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("multi_channel", [False, True])
def test_layers_that_return_masks(multi_channel):
    options = {"padding": 1, "return_mask": True, "multi_channel": multi_channel}
    assert only(nn.Sequential(PConv2d(3, 4, 3, **options)), (8, 8)).seeing == 64 - 6 * 6


def test_layers_called_by_keyword():
    assert only(ByKeyword(), (10, 16)).seeing == 160 - 8 * 14


class ReadsValues(nn.Module):
    def forward(self, x):
        return x if x.max() > 0 else -x


MEAN = torch.ones(3, 1, 1)


@pytest.mark.parametrize("layer", [ReadsValues(), Functions(lambda x: x - MEAN)])
def test_values_that_a_trace_has_not(layer):
    with pytest.raises(RuntimeError, match=r"on shapes alone \(device meta\), but 1 reads values"):
        padding_report(nn.Sequential(nn.Identity(), layer), (10, 16))
    with pytest.raises(RuntimeError, match=r"^Given groups=1|^Invalid channel"):
        padding_report(nn.Conv2d(4, 3, 3), (10, 16))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_module_is_named():
    model = nn.Sequential(nn.Identity(), torch.jit.script(nn.Conv2d(3, 3, 3, padding=1)))
    with pytest.raises(ValueError, match="1 is a TorchScript module"):
        padding_report(model, (10, 16))


@pytest.mark.skipif(torch.__version__ < "2.6", reason="fails inside of this torch's exporter")
def test_exported_programs():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.MaxPool2d(3, 2, 1),
        nn.ReflectionPad2d(1),
        nn.ConvTranspose2d(4, 4, 3, 2, 1),
        nn.AvgPool2d(3, 1, 1),
    )
    exported = torch.export.export(model, (torch.ones(1, 3, 10, 16),)).module()
    rows, expected = (padding_report(m, (10, 16)).operations for m in (exported, model))
    assert [(row.kind, row.scheme, row.seeing) for row in rows] == [
        (row.kind, row.scheme, row.seeing) for row in expected
    ]


def test_one_dimension():
    operation = only(nn.Sequential(nn.Conv1d(2, 3, 5, padding=2)), (1, 2, 20))
    assert (operation.kind, operation.output_size, operation.seeing) == ("conv1d", (20,), 4)


def test_plot_has_one_bar_per_operation(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 1, 1))
    trace = padding_report(model, (10, 16))
    figure = plot_padding(trace)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [op.share for op in trace.operations]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    assert axes.yaxis_inverted()  # the first one at the top
    assert axes.get_xlabel() == "share of the output that sees padding, input 10x16"
    assert axes.get_xlim() == (0, 1)
    assert axes.xaxis.get_major_formatter()(0.5) == "50%"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["zeros", "-inf"]
    for suffix in ("png", "svg"):
        save_figure(figure, tmp_path / f"plot.{suffix}")
        assert (tmp_path / f"plot.{suffix}").stat().st_size
