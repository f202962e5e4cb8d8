"""Images of different size in one tensor against the same images alone."""

import random

import pytest
import torch
import torch.nn.functional as F

from pconv_seg import partial_conv2d
from pconv_seg.layers.extents import conv2d_within, validity

SIZE = (19, 23)
EXTENTS = ((19, 23), (14, 9), (11, 23))


def _random_layer(rng: random.Random) -> dict:
    kernel = (rng.randint(1, 4), rng.randint(1, 4))
    groups = rng.choice([1, 2, 4])
    same = rng.random() < 0.2
    return dict(
        weight=torch.randn(4, 4 // groups, *kernel, dtype=torch.float64),
        bias=rng.choice([None, torch.randn(4, dtype=torch.float64)]),
        stride=1 if same else (rng.randint(1, 3), rng.randint(1, 3)),
        padding="same" if same else (rng.randint(0, 3), rng.randint(0, 3)),
        dilation=(rng.randint(1, 2), rng.randint(1, 2)),
        groups=groups,
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_each_image_as_alone(seed: int, partial: bool) -> None:
    torch.manual_seed(seed)
    layer = _random_layer(random.Random(seed))
    images = torch.randn(len(EXTENTS), 4, *SIZE, dtype=torch.float64)
    for image, (height, width) in zip(images, EXTENTS, strict=True):
        image[:, height:] = image[:, :, width:] = torch.nan

    output, extents = conv2d_within(images, **layer, extents=EXTENTS, partial=partial)

    for i, (height, width) in enumerate(EXTENTS):
        alone = images[i : i + 1, :, :height, :width]
        expected = (partial_conv2d if partial else F.conv2d)(alone, **layer)
        assert extents[i] == tuple(expected.shape[2:])
        actual = output[i : i + 1, :, : extents[i][0], : extents[i][1]]
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("pads", [(0, 1), (1, 0)])
def test_padding_on_one_side_alone(pads: tuple[int, int], partial: bool) -> None:
    images, weight = torch.randn(1, 1, 6, 6).double(), torch.randn(1, 1, 2, 2).double()
    images[:, :, 4:] = images[..., 3:] = torch.nan
    alone, padding = images[..., :4, :3], (pads, pads)
    output, extents = conv2d_within(
        images, weight, None, 1, padding, 1, 1, extents=((4, 3),), partial=partial
    )
    if partial:
        expected = partial_conv2d(alone, weight, padding=padding)
    else:
        expected = F.conv2d(F.pad(alone, pads * 2), weight)
    assert extents == ((4, 3),)
    torch.testing.assert_close(output[..., :4, :3], expected, rtol=1e-12, atol=1e-12)


def test_first_layer_is_the_masked_layer() -> None:
    images = torch.randn(len(EXTENTS), 4, *SIZE, dtype=torch.float64)
    layer = dict(weight=torch.randn(2, 4, 3, 3).double(), bias=None, stride=1, padding=2)
    rows, cols = validity(EXTENTS, SIZE)
    masked, mask = partial_conv2d(images, **layer, mask=(rows & cols).double())

    output, extents = conv2d_within(
        images, **layer, dilation=1, groups=1, extents=EXTENTS, partial=True
    )

    torch.testing.assert_close(output, masked, rtol=1e-12, atol=1e-12)
    # With padding 2 the image alone has every window that touches it, and so says Eq. 3; with
    # padding 1 it lacks the windows centred on the first row and column of the batch's padding.
    assert extents == tuple((height + 2, width + 2) for height, width in EXTENTS)
    assert [int(m[0, :, 0].sum()) for m in mask] == [19 + 2, 14 + 2, 11 + 2]

    layer["padding"] = 1
    _, mask = partial_conv2d(images, **layer, mask=(rows & cols).double())
    _, extents = conv2d_within(images, **layer, dilation=1, groups=1, extents=EXTENTS, partial=True)
    assert extents == EXTENTS
    assert [int(m[0, :, 0].sum()) for m in mask] == [19, 14 + 1, 11 + 1]


def test_difference_to_eq3_in_the_second_layer() -> None:
    """Two rows a, b in a batch of four rows, through two layers that add up three rows.

    The image alone: 3/2 (a + b) in both rows, then 9/2 (a + b). Eq. 3 makes the first row of
    the batch's padding real, with 3 b in it, and the second layer adds it to row b.
    """
    a, b = 2.0, 5.0
    rows = torch.tensor([a, b, 0, 0], dtype=torch.float64).view(1, 1, 4, 1)
    layer = dict(weight=torch.ones(1, 1, 3, 1).double(), bias=None, stride=1, padding=(1, 0))
    rest = dict(dilation=1, groups=1, partial=True)

    ours, extents = conv2d_within(rows, **layer, **rest, extents=((2, 1),))
    ours, extents = conv2d_within(ours, **layer, **rest, extents=extents)
    assert extents == ((2, 1),)
    assert ours[0, 0, :2, 0].tolist() == [4.5 * (a + b)] * 2

    mask = torch.tensor([1.0, 1, 0, 0]).view(1, 1, 4, 1)
    literal, mask = partial_conv2d(rows, **layer, mask=mask)
    assert mask.flatten().tolist() == [1, 1, 1, 0]
    assert literal[0, 0, 2, 0] == 3 * b
    literal, mask = partial_conv2d(literal, **layer, mask=mask)
    assert mask.flatten().tolist() == [1, 1, 1, 1]
    assert literal[0, 0, :2, 0].tolist() == [4.5 * (a + b), 3 * (a + b) + 3 * b]


def test_gradient_stays_inside() -> None:
    images = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    output, _ = conv2d_within(
        images, weight, None, 1, 1, 1, 1, extents=((6, 6), (4, 3)), partial=True
    )
    output[1, :, :4, :3].sum().backward()
    alone = images.detach()[1:, :, :4, :3].requires_grad_()
    partial_conv2d(alone, weight, padding=1).sum().backward()
    expected = F.pad(alone.grad[0], (0, 3, 0, 2))
    torch.testing.assert_close(images.grad[1], expected, rtol=1e-12, atol=1e-12)
    assert not images.grad[0].any()
