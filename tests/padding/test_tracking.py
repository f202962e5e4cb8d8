"""Every image in a padded batch against the same image alone, through networks and operations."""

import math
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmseg.models.utils import Upsample
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils.checkpoint import checkpoint

from pconv_seg import PConv2d, partial_conv2d, set_padding
from pconv_seg.padding import extents_of, track_extents

SIZE = (40, 48)
EXTENTS = ((40, 48), (29, 35), (33, 24), (21, 48))


def _images(channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(EXTENTS), channels, *SIZE, dtype=torch.float64, generator=generator)


def _alone(images: Tensor) -> list[Tensor]:
    return [images[i : i + 1, :, :h, :w] for i, (h, w) in enumerate(EXTENTS)]


def _assert_as_alone(output: Tensor, alone: list[Tensor], dims: tuple[int, int] = (2, 3)) -> None:
    assert extents_of(output) == tuple(tuple(a.shape[d] for d in dims) for a in alone)
    for i, expected in enumerate(alone):
        actual = output[i : i + 1]
        for dim in dims:
            actual = actual.narrow(dim, 0, expected.shape[dim])
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def _assert_followed(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The output for a padded batch, in which every image has what it has alone."""
    tracked = model if isinstance(model, nn.Module) else nn.Identity()
    with track_extents(tracked, images, EXTENTS):
        output = model(images)
    _assert_as_alone(output, [model(image) for image in _alone(images)])
    return output


class RandomNet(nn.Module):
    """A random encoder and decoder with skip connections of both kinds."""

    def __init__(self, seed: int, conv: type[nn.Conv2d]) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.stages, self.kinds, channels, taps = nn.ModuleList(), [], 3, [3]
        for _ in range(3):
            out = rng.choice([4, 8])
            kernel, dilation = rng.choice([1, 2, 3, 5]), rng.choice([1, 2, 3])
            down = rng.choice(
                [
                    conv(channels, out, 3, stride=2, padding=1),
                    nn.Sequential(conv(channels, out, 1), nn.MaxPool2d(3, 2, 1)),
                    nn.Sequential(conv(channels, out, 2), nn.AvgPool2d(2, ceil_mode=True)),
                    nn.Sequential(conv(channels, out, 3), nn.AvgPool2d(3, 2, 1)),
                ]
            )
            body = nn.Sequential(
                self._norm(rng, out),
                nn.ReLU(inplace=True),
                conv(
                    out,
                    out,
                    (kernel, 3),
                    padding=(kernel // 2 * dilation, dilation),
                    dilation=dilation,
                    groups=rng.choice([1, 2, out]),
                    bias=rng.choice([True, False]),
                ),
                self._norm(rng, out),
                rng.choice([nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.PReLU()]),
            )
            self.stages.append(nn.ModuleDict(dict(down=down, body=body)))
            self.kinds.append("add" if kernel % 2 else "concat")
            channels = out if kernel % 2 else 2 * out
            taps.append(channels)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.pool = rng.choice([1, 2, 3])
        self.fuse = nn.ModuleList(
            conv(taps[i] + (2 if i == 3 else 1) * taps[3], taps[3], 3, padding=1)
            for i in (3, 2, 1, 0)
        )
        self.mode = rng.choice(
            [dict(mode="nearest"), dict(mode="bilinear"), dict(mode="bilinear", align_corners=True)]
        )

    @staticmethod
    def _norm(rng: random.Random, channels: int) -> nn.Module:
        if rng.random() < 0.3:
            return nn.GroupNorm(2, channels)
        norm = nn.BatchNorm2d(channels)
        for values in (norm.running_mean, norm.bias, norm.weight):
            nn.init.uniform_(values, -1, 1)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for stage, kind in zip(self.stages, self.kinds, strict=True):
            x = stage["down"](x)
            y = stage["body"](x)
            if kind == "add":
                x = x + y
            else:
                y = F.interpolate(y, x.shape[2:], **self.mode)
                x = torch.cat([x, y], dim=1)
            features.append(x)
        x = x * self.gate(x).sigmoid()
        pooled = F.adaptive_avg_pool2d(x, self.pool)
        x = torch.cat([x, F.interpolate(pooled, size=x.shape[2:], **self.mode)], dim=1)
        for fuse in self.fuse:
            feature = features.pop()
            height, width = feature.shape[2:]
            x = F.interpolate(x, size=(height, width), **self.mode)
            x = fuse(torch.cat([feature, x], dim=1))
        return x


@pytest.mark.parametrize("conv", [PConv2d, nn.Conv2d])
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int, conv: type[nn.Conv2d]) -> None:
    net, images = RandomNet(seed, conv).double().eval(), _images()
    padded, followed = (o[1, :, :29, :35] for o in (net(images), _assert_followed(net, images)))
    # The networks are such that padding matters.
    assert not torch.allclose(padded, followed, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", ["reflect", "replicate", "circular", "distribution"])
def test_networks_with_switched_padding(scheme: str) -> None:
    net = RandomNet(0, nn.Conv2d).double().eval()
    set_padding(net, scheme)
    _assert_followed(net, _images())


@pytest.mark.parametrize("scheme", ["partial", "reflect"])
def test_padding_that_depends_on_the_size(scheme: str) -> None:
    """As in MobileNetV3: followed if it is the same for all images."""
    net = nn.Sequential(Conv2dAdaptivePadding(3, 4, 3, stride=2), Conv2dAdaptivePadding(4, 2, 5, 2))
    set_padding(net.double(), scheme)
    images = _images()
    extents = ((40, 48), (28, 36), (32, 24), (20, 48))
    with track_extents(net, images, extents):
        output = net(images)
    for x, image, (height, width) in zip(output, images, extents, strict=True):
        alone = net(image[None, :, :height, :width])[0]
        actual = x[:, : height // 4, : width // 4]
        torch.testing.assert_close(actual, alone, rtol=1e-10, atol=1e-10)


def test_padding_never_leaks() -> None:
    net, images = RandomNet(3, PConv2d).double().eval(), _images()
    outputs = []
    for value in (0.0, 1e6, torch.nan):
        for image, (height, width) in zip(images, EXTENTS, strict=True):
            image[:, height:] = image[:, :, width:] = value
        with torch.no_grad(), track_extents(net, images, EXTENTS):
            outputs.append(net(images))
    for output in outputs[1:]:
        for a, b, (height, width) in zip(output, outputs[0], EXTENTS, strict=True):
            assert torch.equal(a[:, :height, :width], b[:, :height, :width])


def _assert_gradients_followed(
    net: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]
) -> None:
    sum(loss(net(image)) for image in _alone(images)).backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()

    with track_extents(net, images, EXTENTS):
        output = net(images)
    sum(loss(o[:, :h, :w]) for o, (h, w) in zip(output, EXTENTS, strict=True)).backward()

    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-8, msg=name)


def test_gradients_are_the_sum_over_images() -> None:
    net = RandomNet(4, PConv2d).double().eval()
    _assert_gradients_followed(net, _images(), lambda output: output.square().sum())


SINGULAR: dict[str, Callable[[Tensor], Tensor]] = {
    "div": lambda x: x / x.sum(1, keepdim=True),
    "root": lambda x: x / x.square().sum(1, keepdim=True).sqrt(),
    "number over map": lambda x: 1 / x,
    "rsqrt": lambda x: x * (x * x).mean(1, True).rsqrt(),
    "log": lambda x: torch.log(x),
    "reciprocal": lambda x: torch.reciprocal(x),
    "pow": lambda x: x**0.3 + x ** (x - 0.5),
    "in place": lambda x: x.clone().div_(x.sum(1, keepdim=True)).sqrt_(),
    "in place, by its name": lambda x: [x := x * 2, x.sqrt_(), x][-1],
}


@pytest.mark.parametrize("padding", [0.0, torch.nan])
@pytest.mark.parametrize("name", SINGULAR)
def test_gradients_of_operations_that_have_none_at_0(name: str, padding: float) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = PConv2d(3, 4, 3, padding=1, bias=False)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(SINGULAR[name](self.stem(x).abs()))

    net, images = Net().double(), _images()
    for image, (height, width) in zip(images, EXTENTS, strict=True):
        image[:, height:] = image[:, :, width:] = padding
    _assert_gradients_followed(net, images, torch.sum)


def test_batch_norm_in_training_sees_real_positions() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).double()
    images = _images()
    positions = torch.cat([image.flatten(2) for image in _alone(images)], dim=2)
    expected = F.batch_norm(positions, None, None, training=True)

    with track_extents(net, images, EXTENTS):
        output = net(images)

    parts = expected.split([h * w for h, w in EXTENTS], dim=2)
    parts = [p.view(1, 3, *e) for p, e in zip(parts, EXTENTS, strict=True)]
    _assert_as_alone(output, parts)
    torch.testing.assert_close(net[0].running_mean, 0.1 * positions.mean((0, 2)))
    torch.testing.assert_close(net[0].running_var, 0.9 + 0.1 * positions.var((0, 2)))
    assert net[0].num_batches_tracked == 1
    # Without running statistics in evaluation, too.
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).double().eval()
    with track_extents(net, images, EXTENTS):
        output = net(images)
    _assert_as_alone(output, parts)


def _shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _channels_last_norm(x: Tensor) -> Tensor:
    x = F.layer_norm(x.permute(0, 2, 3, 1), (4,))
    x = F.linear(x, torch.linspace(-1, 1, 20, dtype=x.dtype).view(5, 4))
    return x.permute(0, 3, 1, 2)


def _efficient_channel_attention(x: Tensor) -> Tensor:
    taps = torch.linspace(-1, 1, 3, dtype=x.dtype).view(1, 1, 3)
    means = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
    return x * F.conv1d(means, taps, padding=1).transpose(-1, -2).unsqueeze(-1).sigmoid()


KERNEL = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ENCODING = torch.randn(1, 4, 60, 50, dtype=torch.float64)
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, None)),
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, 6),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "pool of the map's size": lambda x: x + F.avg_pool2d(x, x.shape[2:]),
    "pad to a size": lambda x: F.pad(x, (0, 60 - x.shape[3])),
    "pad by what a multiple lacks": lambda x: F.pad(x, (0, -x.shape[3] % 5, 0, -(-x.size(2) // 7))),
    "padding by axis": lambda x: partial_conv2d(
        x, KERNEL[:, :, :2], None, 1, ((1, 0), (1, 2)), 1, 2
    ),
    "padding from a shape": lambda x: F.conv2d(x, KERNEL, padding=x.shape[3] * 0 + 1, groups=2),
    "unlike means": lambda x: x * x.var(1, False, True),
    "pad to a multiple": lambda x: F.pad(x, (0, (x.shape[3] + 4) // 5 * 5 - x.shape[3])),
    "one axis": lambda x: x * x.mean(axis=-1, keepdim=True),
    "attention along an axis": lambda x: x.softmax(dim=3),
    "channel attention": lambda x: (
        x * torch.cat([x.amax(1, True), x.mean(1, True)], 1).sum(1, True)
    ),
    "squeezed channels": lambda x: (x * x).sum(dim=1).unsqueeze(1).squeeze(1).unsqueeze(1),
    "max": lambda x: torch.max(x, dim=1, keepdim=True)[0],
    "maximum": lambda x: torch.max(x, -x),
    "normalize": lambda x: F.normalize(x) + x.norm(1, 1, True),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x),
    "channels last": _channels_last_norm,
    "channel shuffle": _shuffle,
    "split": lambda x: torch.cat([*x.split(3, dim=1)[::-1], x.chunk(2, 1)[0]], dim=1),
    "channel slices": lambda x: x[:, 1:3] + x[:, 0].unsqueeze(1),
    "focus": lambda x: torch.cat([x[..., ::2, ::2], x[..., 0::2, 0::2]], dim=1),
    "top left": lambda x: x[:, :, :15, 3:30],
    "all but the last": lambda x: x[:, :, :-3, 1:-20:2],
    "reflect": lambda x: F.conv2d(F.pad(x, (2, 1, 3, 0), mode="reflect"), KERNEL, groups=2),
    "pad": lambda x: F.pad(x, (2, 1, 3, 0), value=1.0),
    "transposed": lambda x: F.conv_transpose2d(x, KERNEL, None, 2, 1, 1, groups=2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"),
    "nearest": lambda x: F.interpolate(x, scale_factor=(2, 0.5)),
    "to a shape": lambda x: F.interpolate(x[..., ::3, ::3], size=x.shape[-2:], mode="bilinear"),
    "to one length of a shape": lambda x: F.interpolate(
        x[..., ::2, :].mean(3, keepdim=True), size=(x.shape[2], 1), mode="bilinear"
    ),
    "to half a shape": lambda x: F.interpolate(x, size=(x.size(2) // 2, x.size(3) // 2)),
    "in place": lambda x: F.relu(x.clone(), inplace=True).mul_(2).add_(x).clamp_(0.1),
    "end of a slice": lambda x: x[:, :, : x.shape[2] // 2, 1 : x[..., ::3].shape[3]],
    "to a share of a shape": lambda x: F.interpolate(x, size=[int(n * 0.5) for n in x.shape[2:]]),
    "pad by what differs": lambda x: F.pad(
        x, (0, max(60 - x.shape[3], 0), 0, 90 // x.size(2) + x.numel() - x.numel())
    ),
    "sizes compared": lambda x: (
        2 * x if x.shape[2:] != x[..., ::2].shape[2:] and 20 < x.size(2) <= x.numel() else x
    ),
    "attention along channels": _efficient_channel_attention,
    "share of decisions": lambda x: x * (x > 0).float().mean((2, 3), keepdim=True),
    "combined decisions": lambda x: F.avg_pool2d(
        ((x > 0) & ~(x == 0) | x.isnan().logical_not()).to(x.dtype) + (x <= 0.3).double(), 3, 1, 1
    ),
    "labels by decisions": lambda x: torch.where(x[:, :1] > 0.8, 3, x[:, :1].long()),
    "best channels": lambda x: F.avg_pool2d(x.topk(2, 1)[1].to(x.dtype), 3, 1, 1),
    "best channels, last": lambda x: x.permute(0, 2, 3, 1).topk(2)[0].permute(0, 3, 1, 2),
    "numbers of a vector": lambda x: (
        x * torch.tensor(F.adaptive_avg_pool2d(x, 1).tolist(), dtype=x.dtype)
    ),
    "by keywords": lambda x: x - torch.mean(input=x, dim=(2, 3), keepdim=True),
    "scalars": lambda x: 2 - x / 3 + (1 / (x.abs() + 1)) ** 2,
    "thresholds": lambda x: torch.where(x > 0.5, x, x * 0.1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    _assert_followed(OPERATIONS[name], _images(4))


def test_vectors_are_free() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4))
    net, images = net.double().eval(), _images(4)

    def gate(x: Tensor) -> Tensor:
        vector = net(x)
        vector = (vector @ torch.ones(4, 4, dtype=x.dtype)).sort(dim=1)[0]
        return x * vector.view(*vector.shape, 1, 1) + x.sum((2, 3))[:, :, None, None]

    with track_extents(net, images, EXTENTS):
        output = gate(images)
    _assert_as_alone(output, [gate(image) for image in _alone(images)])


def test_slice_of_real_positions_is_ordinary() -> None:
    images = _images()
    with track_extents(nn.Identity(), images, EXTENTS):
        crop = (images * 2)[1:2][..., 0:29, 0:35]
        assert extents_of(crop) is None
        # Now also to the size of the images, which would mean their extents otherwise.
        resized = F.interpolate(crop.flip(3), size=SIZE, mode="bilinear")
    expected = 2 * _alone(images)[1].flip(3)
    assert torch.equal(resized, F.interpolate(expected, size=SIZE, mode="bilinear"))


class TestSizes:
    def test_factor_of_mmsegs_upsample(self) -> None:
        """Not the size of a map seen before, which for one of the images differs from it."""
        net, images = nn.Sequential(Upsample(scale_factor=2, mode="bilinear")), _images()
        with track_extents(net, images, EXTENTS):
            output = net(F.max_pool2d(images, 2, ceil_mode=True))
        expected = [net(F.max_pool2d(image, 2, ceil_mode=True)) for image in _alone(images)]
        _assert_as_alone(output, expected)
        assert extents_of(output)[1] == (30, 36)

    def test_size_of_the_images(self) -> None:
        """As plain numbers, from labels or from meta information."""
        net, images = nn.Sequential(Upsample(size=SIZE, mode="bilinear")), _images()
        with track_extents(net, images, EXTENTS):
            output = net(images[..., ::4, ::4])
        expected = [
            F.interpolate(x[..., ::4, ::4], x.shape[2:], mode="bilinear") for x in _alone(images)
        ]
        _assert_as_alone(output, expected)

    def test_ambiguous_number(self) -> None:
        images = _images()
        with track_extents(nn.Identity(), images, EXTENTS):
            half = F.max_pool2d(images, 2, ceil_mode=True)
            quarter = F.max_pool2d(half, 2, ceil_mode=True)
            for size in ((20, 24), (1, 1)):  # (1, 1) as a factor leaves nothing of small images
                message = rf"interpolate to \({size[0]}, {size[1]}\).*which of"
                with pytest.raises(NotImplementedError, match=message):
                    F.interpolate(quarter, size=size)

    def test_remainders(self) -> None:
        """As mmseg's U-Net asks for them."""
        images = _images()
        with track_extents(nn.Identity(), images, ((40, 48), (32, 24), (8, 16), (24, 40))):
            assert images.shape[2] % 8 == 0
            assert (-images.shape[3] % 5).of_samples == (2, 1, 4, 0)

    def test_arithmetic(self) -> None:
        images = _images()
        with track_extents(nn.Identity(), images, EXTENTS):
            height, width = images.shape[2:]
            cells = (height + 1) * 2 // 3 - width
        assert int(cells) == 41 * 2 // 3 - 48
        assert cells.of_samples == tuple((h + 1) * 2 // 3 - w for h, w in EXTENTS)

    def test_size_of_labels(self) -> None:
        """As mmseg's samplers assert: in the padding of images of this size, so are labels."""
        images, labels = _images(), torch.zeros(len(EXTENTS), 1, *SIZE)
        with track_extents(nn.Identity(), images, EXTENTS):
            assert images.shape[2:] == labels.shape[2:]
            assert (2 * images).size(3) == labels.size(3)
            assert operator.ne(images.size(3), labels.size(3)) is False
            with pytest.raises(NotImplementedError, match="__ne__"):
                assert images.size(2) != EXTENTS[1][0]


class WeightedLoss(nn.Module):
    loss_name = "loss_weighted"

    def forward(self, predicted: Tensor, weights: Tensor) -> Tensor:
        return (predicted * weights).sum()


def test_losses_take_labels_and_weights_of_the_padded_size() -> None:
    images, model = _images(), nn.ModuleList([WeightedLoss()])
    weights = torch.zeros(len(EXTENTS), 1, *SIZE)
    for weight, (height, width) in zip(weights, EXTENTS, strict=True):
        weight[:, :height, :width] = torch.arange(float(width))
    with track_extents(model, images, EXTENTS):
        total = model[0](2 * images, weights)
    alone = [(2 * x * torch.arange(float(x.shape[3]))).sum() for x in _alone(images)]
    torch.testing.assert_close(total, sum(alone))


def test_metrics_are_free() -> None:
    """As mmseg's accuracy, in which labels decide what counts."""
    images, labels = _images(), torch.full((len(EXTENTS), *SIZE), 255)
    for label, (height, width) in zip(labels, EXTENTS, strict=True):
        label[:height, :width] = 1

    def hits(x: Tensor, labels: Tensor) -> Tensor:
        assert (labels > 0).all()
        best, classes = x.argmax(1), x.topk(1, dim=1)[1].transpose(0, 1)
        best[labels == 255] = 255
        return (classes == labels.expand_as(classes))[:, labels != 255].float().sum() + best[
            labels != 255
        ].eq(1).sum()

    with track_extents(nn.Identity(), images, EXTENTS):
        total = hits(2 * images, labels)
    alone = [hits(x, labels[:1, : x.shape[2], : x.shape[3]].clamp(max=1)) for x in _alone(images)]
    assert total == sum(alone)


class Hidden(torch.autograd.Function):
    """Stands for a compiled extension: torch shows nothing of what it writes into a new tensor."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return torch.ones([int(n) for n in x.shape], dtype=x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(2),
    "view": lambda x: x.view(len(x), -1),
    "matmul": lambda x: x @ x.transpose(2, 3),
    "flip": lambda x: x.flip(3),
    "roll": lambda x: torch.roll(x, 1, 2),
    "grid_sample": lambda x: F.grid_sample(x, x.new_zeros(4, 5, 5, 2), align_corners=False),
    "unfold": lambda x: F.unfold(x, 3),
    "unflatten": lambda x: x.permute(0, 2, 3, 1).unflatten(1, (2, 20)),
    "fft_rfft2": lambda x: torch.fft.rfft2(x),
    "cat": lambda x: torch.cat([x, x], dim=2),
    "cat of batches": lambda x: torch.cat([x, x]),
    "mean": lambda x: x.mean(),
    "sum": lambda x: x.sum(dim=(1, 2)),
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "layer_norm of plain sizes": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (SIZE[1], 3)),
    "linear": lambda x: F.linear(x, x.new_ones(SIZE[1], SIZE[1])),
    "permute": lambda x: x.permute(1, 0, 2, 3),
    "div": lambda x: x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3]),
    "pad": lambda x: F.pad(x, (0, 100 - 2 * x.shape[3])),
    "__truediv__": lambda x: F.pad(x, (0, math.ceil(x.shape[3] / 5))),
    "__eq__ of remainders": lambda x: x if x.shape[3] % 8 == 0 else 2 * x,
    "var": lambda x: x * x.var(True),
    "mul of a float": lambda x: x * (x.shape[2] * 0.5),
    "sub of numel": lambda x: x - x.numel(),
    "topk": lambda x: x.topk(x.shape[2] // 20, 1)[0],
    "__float__": lambda x: x / float(x.shape[2]),
    "__float__ of a root": lambda x: x / math.sqrt(x.shape[2]),
    "__rshift__": lambda x: x + (x.shape[2] >> 1),
    "__gt__": lambda x: x if x.shape[2] > 30 else 2 * x,
    "__eq__ of maps": lambda x: x if x.shape == x[:, :, :30].shape else 2 * x,
    "__eq__ of a number": lambda x: x if x[..., ::2].shape[3] == 24 else 2 * x,
    "__eq__ of half a width": lambda x: x if x.shape[3] // 2 == 24 else 2 * x,
    "__bool__": lambda x: F.pad(x, (0, 60)) if 48 - x.shape[3] else x,
    "linspace": lambda x: torch.linspace(-1, 1, x.shape[3]),
    "arange": lambda x: torch.arange(x.shape[3]) + x,
    "tensor": lambda x: x / torch.tensor(x.shape[2:]).prod(),
    "full": lambda x: x + torch.full((1, 1, 1, 1), x.shape[2]),
    "full_like": lambda x: torch.full_like(x, x.shape[2]),
    "new_tensor": lambda x: x + x.new_tensor(x.shape[3]),
    "interpolate of an encoding": lambda x: x + F.interpolate(ENCODING, size=x.shape[2:]),
    "__getitem__ of an encoding": lambda x: x * ENCODING[:, :, : x.shape[2], : x.shape[3]],
    "ones_like": lambda x: x + F.avg_pool2d(torch.ones_like(x), 3, 1, 1),
    "new_full": lambda x: x * F.avg_pool2d(x.new_full(x.shape, 2.0), 3, 1, 1),
    "expand": lambda x: x + x.mean((2, 3), True).expand(x.shape),
    "repeat": lambda x: x + x.sum((2, 3))[:, :, None, None].repeat(1, 1, *x.shape[2:]),
    "squeeze": lambda x: x * x.mean(3, True).squeeze(3)[..., None],
    "mul of counts": lambda x: x * (x > 0).sum((2, 3), keepdim=True),
    "add of classes": lambda x: x + x.argmax(1, keepdim=True),
    "mul of flipped decisions": lambda x: x * (x > 0).flip(3),
    "__bool__ of a decision": lambda x: x if (x > 0).any() else 2 * x,
    "item": lambda x: x * (x > 0).sum().item(),
    "tolist": lambda x: x * x.tolist()[0][0][0][0],
    "embedding": lambda x: F.embedding(x.argmax(1), nn.Parameter(torch.ones(3, 5))),
    "add": lambda x: F.max_pool2d(x, 2) + F.max_pool2d(x, 2, ceil_mode=True),
    "add of a constant": lambda x: x + torch.ones(1, 3, 40, 48),
    "mul of a constant without batch": lambda x: x * torch.ones(3, 40, 48),
    "conv2d": lambda x: F.conv2d(x, F.adaptive_avg_pool2d(x, 1)),
    "conv2d of a constant": lambda x: F.conv2d(x.new_ones(1, 3, 5, 5), x.mean((2, 3), True)),
    "conv2d of channels last": lambda x: F.conv2d(x.permute(0, 2, 3, 1), x.new_ones(1, 40, 1, 1)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, x.mean((2, 3), True)[:3, :]),
    "conv_transpose2d of a constant": lambda x: F.conv_transpose2d(
        x.new_ones(1, 4, 5, 5), x.mean((2, 3), True)
    ),
    "partial_conv2d with a mask": lambda x: partial_conv2d(
        x, x.new_ones(1, 3, 3, 3), mask=x.new_ones(4, 1, *SIZE)
    ),
    "__getitem__ from the end": lambda x: x[:, :, -3:],
    "__getitem__ beyond": lambda x: x[:, :, : 45 - x.shape[2]],
    "__getitem__ from the middle": lambda x: x[:, :, x.shape[2] // 2 :],
    "__getitem__ of a row": lambda x: x[:, :, 0],
    "__getitem__ of channels in a list": lambda x: x[:, [2, 0]],
    "__getitem__ of padding": lambda x: x[:, :, 30:],
    "max": lambda x: torch.max(F.max_pool2d(x, 2), F.max_pool2d(x, 2, ceil_mode=True)),
}
WRITTEN: dict[str, Callable[[Tensor], Any]] = {
    "__setitem__": lambda x: torch.zeros(4, 3, *SIZE).double().__setitem__(..., x),
    "mul of overwritten decisions": lambda x: [d := x > 0, d.__setitem__(0, True), x * d],
}


OLD_TORCH = pytest.mark.skipif(
    torch.__version__ < "2.2", reason="this torch tells nobody what is written into a plain tensor"
)


@pytest.mark.parametrize("name", [*REFUSED, *(pytest.param(n, marks=OLD_TORCH) for n in WRITTEN)])
def test_refused_operations(name: str) -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (REFUSED | WRITTEN)[name](x)

    net, images = nn.Sequential(nn.Identity(), Block()), _images()
    with (
        track_extents(net, images, EXTENTS),
        pytest.raises(NotImplementedError, match=rf"through {name.split()[0]} in 1 \(Block\)"),
    ):
        net(images)


class TestRefusedModules:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(
        ("hiding", "place"),
        [
            (lambda rest, x: Hidden.apply(rest(x)), r"its forward in 1 \(Extension\)"),
            (lambda rest, x: rest(Hidden.apply(x) + x), r"add in 1 \(Extension\)"),
            (lambda rest, x: rest(Hidden.apply(x)), r"its input in 1\.rest \(Sequential\)"),
        ],
    )
    def test_hidden_function(self, hiding: Callable, place: str, training: bool) -> None:
        class Extension(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rest = nn.Sequential(PConv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))

            def forward(self, x: Tensor) -> Tensor:
                return hiding(self.rest, x)

        net, images = nn.Sequential(PConv2d(3, 3, 1), Extension()), _images()
        net = net.double().train(training)
        with track_extents(net, images, EXTENTS), pytest.raises(NotImplementedError, match=place):
            net(images)
        if "forward" not in place:
            # Also in the model itself, and where arguments have names.
            for call in (net[1].forward, lambda x: net[1](x=x)):
                with (
                    track_extents(net[1], images, EXTENTS),
                    pytest.raises(NotImplementedError, match="hides"),
                ):
                    call(images)

    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    @pytest.mark.parametrize("use_reentrant", [True, False])
    @pytest.mark.parametrize(
        "block",
        [
            nn.Sequential(PConv2d(3, 3, 3, padding=1), nn.ReLU()),
            # Torch does not notice by itself: as many tensors of the same shapes are saved.
            lambda x: x * x.mean((2, 3), keepdim=True),
            nn.Conv2d(3, 3, 3, padding=1),
        ],
        ids=["network", "gate", "convolution"],
    )
    def test_gradient_checkpointing(self, block: Callable, use_reentrant: bool) -> None:
        class Checkpointed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block = block

            def forward(self, x: Tensor) -> Tensor:
                return checkpoint(self.block, x, use_reentrant=use_reentrant)

        net, images = nn.Sequential(PConv2d(3, 3, 1), Checkpointed()).double(), _images()
        with (
            track_extents(net, images, EXTENTS),
            pytest.raises(NotImplementedError, match=r"gradient checkpointing .* in 1"),
        ):
            net(images)
        # Without gradients there is no backward pass that would repeat it.
        with torch.no_grad():
            _assert_followed(net, images)

    def test_parts_without_gradients_are_followed(self) -> None:
        class Frozen(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = PConv2d(3, 3, 3, padding=1)

            def forward(self, x: Tensor) -> Tensor:
                with torch.no_grad():
                    return self.conv(x)

        _assert_followed(nn.Sequential(PConv2d(3, 3, 1), Frozen()).double(), _images())

    def test_image_smaller_than_window(self) -> None:
        net, images = nn.Sequential(PConv2d(3, 3, 25)).double(), _images()
        with (
            track_extents(net, images, EXTENTS),
            pytest.raises(NotImplementedError, match=r"0 \(PConv2d\).*smaller than its window"),
        ):
            net(images)


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.skipif(torch.__version__ < "2.2", reason="fails inside of this torch's compiler")
def test_compiled_models_run_uncompiled() -> None:
    net = nn.Sequential(PConv2d(3, 4, 3, padding=1), nn.ReLU(), PConv2d(4, 2, 3, padding=2))
    net, images = net.double(), _images()
    alone = [net(image) for image in _alone(images)]
    compiled = torch.compile(net, backend="eager")
    with track_extents(compiled, images, EXTENTS):
        output = compiled(images)
    _assert_as_alone(output, alone)


def test_nothing_remains() -> None:
    net, images = RandomNet(0, PConv2d).double().eval(), _images()
    before = net(images)
    with pytest.raises(NotImplementedError), track_extents(net, images, EXTENTS):
        net(images).flip(2)
    assert extents_of(images) is None
    assert not global_hooks._global_forward_pre_hooks
    assert not global_hooks._global_forward_hooks
    assert torch.equal(net(images), before)
    assert extents_of(before) is None


@pytest.mark.parametrize(
    "extents",
    [
        EXTENTS[:3],
        ((41, 48), *EXTENTS[1:]),
        ((0, 48), *EXTENTS[1:]),
        ((39.5, 48), *EXTENTS[1:]),
        [(*extent, 3) for extent in EXTENTS],
        (40, 29, 33, 21),
    ],
)
def test_wrong_extents(extents: tuple) -> None:
    with pytest.raises(ValueError, match="do not fit images of shape"):
        track_extents(nn.Identity(), _images(), extents)


def test_images_that_fill_the_batch() -> None:
    net, images = RandomNet(1, PConv2d).double().eval(), _images()
    with track_extents(net, images, [SIZE] * len(images)):
        output = net(images)
    torch.testing.assert_close(output, net(images), rtol=1e-10, atol=1e-10)
    assert math.prod(extents_of(output)[0]) == output[0, 0].numel()


@pytest.mark.parametrize("extents", [((20, 20), (10, 20)), ((10, 20), (9, 19))])
def test_an_image_too_small_to_be_reflected_is_named_with_its_own_size(extents):
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=12, dilation=12))
    set_padding(model, "reflect")
    images = torch.zeros(2, 1, 20, 20)
    message = "0: a map of 10x20 is too small for reflect padding of 12 pixels, which needs .* 13"
    with track_extents(model, images, extents), pytest.raises(ValueError, match=message):
        model(images)
