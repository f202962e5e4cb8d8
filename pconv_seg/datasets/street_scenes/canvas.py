"""Perspective canvas on which :mod:`.street` paints.

Each part of a scene is drawn flat into a small sprite, colour and label together, and warped in
perspective onto a rectangle in the world: so colour and label agree to the pixel.
"""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from pconv_seg.datasets.cityscapes.labels import CITYSCAPES_LABEL_IDS

# Every one of the 34 label ids that stands for no class becomes 255, ...
TRAIN_IDS = np.full(34, 255, np.uint8)
TRAIN_IDS[list(CITYSCAPES_LABEL_IDS.values())] = range(len(CITYSCAPES_LABEL_IDS))
# ... such as the last four of these, which the scenes hold as well.
LABEL_ID = {**CITYSCAPES_LABEL_IDS, "ego vehicle": 1, "static": 4, "parking": 9, "rail track": 10}
_NOTHING = 255  # in a sprite's label ids: see-through

Point = tuple[float, float]
Points = Sequence[Point]
Colour = tuple[float, float, float]


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def ellipse(x: float, y: float, radius_x: float, radius_y: float, corners: int = 16) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius_x * np.sin(angle), y - radius_y * np.cos(angle)], axis=1)


def tint(rng: np.random.Generator, palette: Sequence[Colour]) -> Colour:
    """A colour near one of the palette's."""
    light, hue = rng.normal(0, 14), rng.normal(0, 4, 3)
    return tuple(
        min(max(value + light + change, 8), 240)
        for value, change in zip(palette[rng.integers(len(palette))], hue, strict=True)
    )


def noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise of zero mean and a deviation of about 0.6, float32 [height, width]."""
    total = np.zeros((height, width), np.float32)
    for octave in (1, 2, 4):
        shape = (int(height * octave / cell) + 2, int(width * octave / cell) + 2)
        grid = rng.standard_normal(shape, np.float32) / (1 + octave / 2)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return total


class Sprite:
    """Colours (premultiplied, with opacity) and label ids of one part; coordinates in [0, 1]."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.rgba = np.zeros((height, width, 4), np.uint8)
        self.ids = np.full((height, width), _NOTHING, np.uint8)

    def poly(
        self, points: Points, colour: Colour | None, label: str | None = None, line: float = 0
    ) -> None:
        """Fill a polygon, or outline it ``line`` wide; None leaves colour or label as it is."""
        scale = np.array([self.width, self.height])
        corners = [np.rint(np.asarray(points) * scale - 0.5).astype(np.int32)]
        width = max(1, round(line * self.width))
        changes = (self.rgba, colour and (*colour, 255)), (self.ids, label and LABEL_ID[label])
        for target, value in changes:
            if value is None:
                continue
            if line:
                cv2.polylines(target, corners, True, value, width)
            else:
                cv2.fillPoly(target, corners, value)

    def fill(self, colour: Colour, label: str) -> None:
        self.poly(rectangle(0, 0, 1, 1), colour, label)

    def shade(self, factor: np.ndarray) -> None:
        """Multiply the colours by ``factor`` (broadcast to [height, width])."""
        colours = self.rgba[..., :3] * np.asarray(factor, np.float32)[..., None]
        self.rgba[..., :3] = np.clip(colours, 0, 255)

    def roughen(self, strength: float, cell: float) -> None:
        self.shade(1 + strength * noise(self.rng, self.height, self.width, cell))


class Scene:
    """Camera, light and canvas. World: x right, y up, z ahead, in metres; the camera at x = 0."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.rng = rng
        self.height, self.width = height, width = size
        self.focal = np.sqrt(height * width / 2) * rng.uniform(1.2, 2.0)
        self.vanishing = np.array(
            [width * rng.uniform(0.35, 0.65), height * rng.uniform(0.33, 0.52)]
        )
        self.eye = rng.uniform(1.2, 2.0)
        self.curve = rng.normal(0, 0.0008)
        roll = rng.normal(0, 0.02)
        self.rotation = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        self.sight = np.exp(rng.uniform(np.log(90), np.log(700)))
        self.haze = np.array([205, 212, 222], np.float32) * rng.uniform(0.45, 1.0)
        self.sun = rng.uniform(-1.5, 1.5)  # shadow's reach to the right per metre of height
        self.light_of_side = {sign: 1 - 0.35 * max(0, -sign * self.sun) for sign in (-1, 0, 1)}
        self.image = np.empty((height, width, 3), np.uint8)
        self.ids = np.zeros((height, width), np.uint8)
        self.shadows = np.zeros((height, width), np.uint8)
        self.parts: list[tuple[float, Callable[[], None]]] = []

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] to pixel coordinates [N, 2]."""
        x, y, z = np.asarray(points, np.float64).T
        plane = self.focal * np.stack([(x + self.curve * z**2) / z, (self.eye - y) / z], axis=1)
        return plane @ self.rotation.T + self.vanishing

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """x and z of the ground seen at each pixel, float32 [H, W]; z is inf above the horizon."""
        u = np.arange(self.width, dtype=np.float32) - self.vanishing[0]
        v = np.arange(self.height, dtype=np.float32)[:, None] - self.vanishing[1]
        cos, sin = self.rotation[:, 0]
        u, v = (cos * u + sin * v).astype(np.float32), (cos * v - sin * u).astype(np.float32)
        z = np.where(v > 0.3, self.focal * self.eye / np.maximum(v, 0.3), np.inf)
        with np.errstate(invalid="ignore"):  # of inf - inf above the horizon
            return (u * z / self.focal - self.curve * z**2).astype(np.float32), z.astype(np.float32)

    def add(self, depth: float, paint: Callable, *args) -> None:
        """Plan a part: ``paint(*args)`` is called in its turn, from far to near."""
        self.parts.append((depth, partial(paint, *args)))

    def paint_parts(self) -> None:
        """Lay the shadows on the ground, then paint all parts over each other."""
        soft = cv2.blur(self.shadows, (3, 3))
        dark = cv2.merge([255 - cv2.convertScaleAbs(soft, alpha=0.5)] * 3)
        self.image = cv2.multiply(self.image, dark, scale=1 / 255)
        for _, paint in sorted(self.parts, key=lambda part: -part[0]):
            paint()

    def shadow(self, x: float, z: float, size: tuple[float, float, float]) -> None:
        """Darken the ground under and beside a box of (width, height, length)."""
        width, height, length = size
        reach = self.sun * height
        left, right = x - width / 2 + min(0, reach), x + width / 2 + max(0, reach)
        corners = [(left, 0, z), (right, 0, z), (right, 0, z + length), (left, 0, z + length)]
        quad = np.clip(self.project(corners), -(2**15), 2**15)
        cv2.fillConvexPoly(self.shadows, np.rint(quad).astype(np.int32), 255)

    def paint(self, corners: Points, draw: Callable[[Sprite], None], light: float = 1) -> None:
        """Warp what ``draw`` draws onto a world rectangle.

        ``corners`` are world points, as seen: top left, top right, bottom right, bottom left.
        """
        quad = self.project(corners)
        origin = np.maximum(np.floor(quad.min(axis=0)), 0).astype(int)
        end = np.minimum(np.ceil(quad.max(axis=0)) + 1, (self.width, self.height)).astype(int)
        if (end <= origin).any():
            return
        # As many pixels as the part covers in the image: neither warp nor drawing wastes any.
        edges = np.hypot(*(quad - quad[[1, 2, 3, 0]]).T)
        limit = max(64, 0.6 * max(self.height, self.width))
        width, height = (int(np.clip(max(edges[i::2]), 4, limit)) for i in (0, 1))
        sprite = Sprite(self.rng, height, width)
        draw(sprite)
        clear = np.exp(-np.mean([z for _, _, z in corners]) / self.sight)
        table = np.arange(256)[:, None] * light * clear + self.haze * (1 - clear)
        rgb = cv2.LUT(sprite.rgba[..., :3], np.clip(table, 0, 255).astype(np.uint8)[None])
        sprite.rgba[..., :3] = cv2.bitwise_and(rgb, cv2.merge([sprite.rgba[..., 3]] * 3))
        frame = np.array([(0, 0), (width, 0), (width, height), (0, height)]) - 0.5
        warp = cv2.getPerspectiveTransform(
            frame.astype(np.float32), (quad - origin - 0.5).astype(np.float32)
        )
        target = tuple(int(n) for n in end - origin)
        rgba = cv2.warpPerspective(sprite.rgba, warp, target, flags=cv2.INTER_LINEAR)
        ids = cv2.warpPerspective(
            sprite.ids, warp, target, flags=cv2.INTER_NEAREST, borderValue=_NOTHING
        )
        window = slice(origin[1], end[1]), slice(origin[0], end[0])
        below = cv2.merge([255 - rgba[..., 3]] * 3)
        below = cv2.multiply(self.image[window], below, scale=1 / 255)
        self.image[window] = cv2.add(below, rgba[..., :3])
        np.copyto(self.ids[window], ids, where=ids != _NOTHING)

    def upright(self, x: float, z: float, width: float, top: float, draw) -> None:
        """Paint onto a rectangle that stands on the ground and faces the camera."""
        left, right = x - width / 2, x + width / 2
        corners = [(left, top, z), (right, top, z), (right, 0, z), (left, 0, z)]
        self.paint(corners, draw, self.light_of_side[0])

    def along(self, x: float, z0: float, z1: float, top: float, draw, sign: int) -> None:
        """Paint onto a rectangle parallel to the street, on its right (``sign`` 1) or left (-1)."""
        first, last = (z1, z0) if sign > 0 else (z0, z1)
        corners = [(x, top, first), (x, top, last), (x, 0, last), (x, 0, first)]
        self.paint(corners, draw, self.light_of_side[sign])

    def box(self, x: float, z: float, size: tuple[float, float, float], face, side) -> None:
        """Paint the visible sides of a box of (width, height, length) whose front is at z."""
        width, height, length = size
        seen_from = x + self.curve * z**2
        sign = 1 if seen_from > 0 else -1
        if abs(seen_from) > width / 2:
            self.along(x - sign * width / 2, z, z + length, height, side, sign)
        self.upright(x, z, width, height, face)
