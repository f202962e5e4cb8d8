"""Where the parts of a street scene stand, and the photograph of it.

A scene is a straight or bent street seen from a car: sky, a ground plane with vanishing point, and
a list of parts (facades, walls, trees, vehicles, people, ...) that are painted from far to near.
So nearer things hide farther ones, and the frame cuts whatever stands close to it.
"""

from functools import partial

import cv2
import numpy as np

from . import parts
from .canvas import LABEL_ID, Scene, noise, tint

_FAR = 130.0  # metres; what lies beyond is the skyline

# Width, height, length in metres; of a train, those of one carriage.
_VEHICLES = {
    "car": (1.8, 1.5, 4.3),
    "van": (2.0, 2.3, 5.2),
    "truck": (2.5, 3.3, 8.0),
    "bus": (2.5, 3.1, 11.5),
    "train": (2.6, 3.5, 9.0),
}


class _Street:
    """Cross section of the street and its crossing, in metres beside and ahead of the camera."""

    def __init__(self, rng: np.random.Generator) -> None:
        count = int(rng.integers(1, 5))
        self.lane_width = rng.uniform(3.0, 3.6)
        self.lanes = (np.arange(count) - rng.integers(count)) * self.lane_width
        self.lanes += rng.uniform(-0.6, 0.6)
        self.crossing = rng.uniform(9, 45) if rng.random() < 0.5 else np.inf
        # By side (-1 left, 1 right): kerb, ends of the pavement, building line, rails or None.
        self.kerb, self.walk, self.front, self.rails = {}, {}, {}, {}
        strips = {}
        for sign in (-1, 1):
            kerb = (sign * self.lanes).max() + self.lane_width / 2
            choices = (
                ("rail track", 3.4, 0.2),
                ("parking", 2.2, 0.12),
                ("terrain", rng.uniform(0.8, 2.5), 0.3),
            )
            verge = [(label, width) for label, width, chance in choices if rng.random() < chance]
            walk = ("sidewalk", rng.uniform(1.5, 5)) if rng.random() < 0.9 else ("terrain", 1.0)
            garden = [("terrain", rng.uniform(1, 5))] if rng.random() < 0.3 else []
            beyond = (str(rng.choice(["terrain", "sidewalk"])), np.inf)
            strips[sign] = [*verge, walk, *garden, beyond]
            near = kerb + sum(width for _, width in verge)
            self.kerb[sign], self.walk[sign] = kerb, (near, near + walk[1])
            self.front[sign] = near + walk[1] + sum(width for _, width in garden)
            self.rails[sign] = kerb + 1.7 if strips[sign][0][0] == "rail track" else None
        # From left to right: what lies on the ground, and the borders in between.
        self.labels = [name for name, _ in strips[-1][::-1]] + ["road"]
        self.labels += [name for name, _ in strips[1]]
        self.road = len(strips[-1])
        borders = {
            sign: self.kerb[sign] + np.cumsum([0] + [width for _, width in strips[sign][:-1]])
            for sign in (-1, 1)
        }
        self.borders = np.concatenate([-borders[-1][::-1], borders[1]])

    def crosses(self, near: float, far: float) -> bool:
        return near < self.crossing + 7 and far > self.crossing


def _paint_sky(scene: Scene) -> None:
    rng, rows = scene.rng, np.linspace(1, 0, scene.height)[:, None, None]
    clouds = noise(rng, scene.height, scene.width, max(4, scene.width / 4)) * rng.uniform(0, 0.8)
    blue = np.array(tint(rng, [(96, 140, 200), (150, 168, 190), (180, 182, 186)])) * rows
    sky = scene.haze * (1 - rows) + blue
    sky = sky + (scene.haze - sky) * np.clip(clouds, -0.3, 1)[..., None]
    scene.image[:] = np.clip(sky, 0, 255)
    scene.ids[:] = LABEL_ID["sky"]


def _paint_ground(scene: Scene, street: _Street) -> None:
    rng = scene.rng
    x, z = scene.ground()
    ground = z < _FAR + 5
    x, z = x[ground], z[ground]
    strip = np.searchsorted(street.borders, x)
    strip[(z > street.crossing) & (z < street.crossing + 7)] = street.road
    palettes = {"terrain": parts.GREEN, "rail track": parts.MASONRY}
    colours = np.array(
        [tint(rng, palettes.get(name, parts.PAVING)) for name in street.labels], np.float32
    )
    colour = colours[strip]
    fine, patches = noise(rng, 256, 256, 6), noise(rng, 256, 256, 64) > 0.9

    def pattern(table: np.ndarray, per_metre: float) -> np.ndarray:
        """Spread a table of 256 x 256 values over the ground, repeating it."""
        row, column = ((axis * per_metre).astype(np.int64) & 255 for axis in (z, x))
        return table[row, column]

    factor = 1 + pattern(fine, 20) * (0.1 * np.exp(-z / 25)) + 0.1 * pattern(fine, 2)
    factor -= 0.15 * pattern(patches, 8)
    on_road = strip == street.road
    label = np.array([LABEL_ID[name] for name in street.labels], np.uint8)[strip]
    slabs = (label == LABEL_ID["sidewalk"]) & (z < 20) & ((x % 0.8 < 0.06) | (z % 0.8 < 0.06))
    factor[slabs] *= 0.82
    marks = np.zeros_like(on_road)
    free = z < street.crossing - 4
    for border in street.lanes[1:] - street.lane_width / 2:
        marks |= (np.abs(x - border) < 0.08) & (z % 7 < rng.choice([3.5, 7])) & free
    if rng.random() < 0.5:
        for sign, kerb in street.kerb.items():
            marks |= (np.abs(sign * x - kerb + 0.3) < 0.07) & free
    marks |= (np.abs(z - street.crossing + 2) < 1.5) & (x % 1.1 < 0.55)
    if street.rails[-1] or street.rails[1]:
        steel = [
            np.abs(np.abs(s * x - rail) - 0.72) < 0.06 for s, rail in street.rails.items() if rail
        ]
        factor[np.any(steel, axis=0) & ~on_road] *= 0.5
    colour[marks & on_road] = rng.uniform(150, 215)
    # The buildings on the sun's side throw a ragged shadow over their part of the street.
    sunny = -np.sign(scene.sun)
    reach = street.front[sunny] - abs(scene.sun) * rng.uniform(0, 8)
    factor[sunny * x > reach + 1.5 * pattern(fine, 1)] *= 0.6
    clear = np.exp(-z / scene.sight)[:, None]
    colour = colour * factor[:, None] * clear + scene.haze * (1 - clear)
    scene.image[ground] = np.clip(colour, 0, 255)
    scene.ids[ground] = label


def _add_vehicle(scene: Scene, kind: str, x: float, z: float) -> None:
    rng = scene.rng
    size = tuple(np.array(_VEHICLES[kind]) * rng.uniform(0.9, 1.1, 3))
    colour = tint(rng, parts.PAINT)
    lamps = (170, 24, 24) if x > -1.5 else (226, 222, 196)
    end = partial(parts.vehicle_end, kind=kind, colour=colour, lamps=lamps)
    side = partial(parts.vehicle_side, kind=kind, colour=colour)
    # Carriages are parts of their own: one long part has no single place in the order of depth.
    for start in z + size[2] * np.arange(rng.integers(2, 5) if kind == "train" else 1):
        scene.shadow(x, start, size)
        scene.add(start + size[2] / 2, scene.box, x, start, size, end, side)


def _add_upright(scene: Scene, x: float, z: float, width: float, top: float, draw, *args) -> None:
    scene.shadow(x, z, (width / 2, top / 2, width / 2))
    scene.add(z, scene.upright, x, z, width, top, lambda s: draw(s, *args))


def _add_roadside(scene: Scene, street: _Street, sign: int) -> None:
    """Facades, walls, fences, gardens and gaps along the building line, one after the other."""
    rng, front = scene.rng, street.front[sign]
    end = rng.uniform(-10, 0)
    while end < _FAR:
        z, end = max(end, 0.8), end + rng.uniform(5, 22)
        if end - z < 1 or street.crosses(z, end):
            continue
        kind = rng.choice(
            ["house", "wall", "fence", "hedge", "gap"], p=[0.44, 0.2, 0.2, 0.08, 0.08]
        )
        x, top = sign * front, rng.uniform(0.9, 3.2)
        behind = x + sign * rng.uniform(2, 9)
        if kind == "house" or rng.random() < 0.5:
            place = x if kind == "house" else behind
            height, width = rng.uniform(4, 9) * rng.choice([1, 1, 2]), rng.uniform(6, 14)
            storeys = max(1, round(height / 3.2))
            facade = partial(parts.facade, storeys=storeys, columns=max(1, round((end - z) / 2.5)))
            gable = partial(parts.facade, storeys=storeys, columns=4)
            blank = partial(parts.masonry, label="building")
            gable = gable if rng.random() < 0.4 else blank
            scene.add(end + 0.1, scene.upright, place + sign * width / 2, z, width, height, gable)
            scene.add(end, scene.along, place, z, end, height, facade, sign)
        else:
            for depth in np.arange(z + 1, end, rng.uniform(2, 6)):
                _add_tree(scene, behind, depth)
        border = {
            "wall": partial(parts.masonry, label="wall"),
            "fence": parts.fence,
            "hedge": partial(parts.foliage, crown=0),
        }
        if kind in border:
            scene.add(end - 0.1, scene.along, x, z, end, top, border[kind], sign)


def _add_tree(scene: Scene, x: float, z: float) -> None:
    width, height, crown = scene.rng.uniform((2, 3, 0.1), (6, 9, 0.5))
    _add_upright(scene, x, z, width, height, parts.foliage, crown)


def _depth(rng: np.random.Generator) -> float:
    """Near depths about as likely as far ones, so that things of all sizes appear."""
    return float(np.exp(rng.uniform(np.log(1.1), np.log(60))))


def _add_pavement(scene: Scene, street: _Street, sign: int) -> None:
    """Posts, trees, people and parked two-wheelers between kerb and building line."""
    rng, (near, far) = scene.rng, street.walk[sign]

    def beside() -> float:
        return sign * rng.uniform(near + 0.3, far)

    for z in np.arange(rng.uniform(2, 15), 90, rng.uniform(8, 25)):
        top = str(rng.choice(["lamp", "sign", "sign", "light", "bare"]))
        height = rng.uniform(2.2, 3.5) if top == "sign" else rng.uniform(4, 8)
        _add_upright(scene, sign * near, z, 2.0, height, parts.pole, top)
    if street.crossing < np.inf:
        height = rng.uniform(3, 5)
        _add_upright(scene, sign * near, street.crossing - 1, 2.0, height, parts.pole, "light")
    if rng.random() < 0.5:
        for z in np.arange(rng.uniform(2, 12), 110, rng.uniform(6, 14)):
            _add_tree(scene, sign * (near + 0.6), z)
    for _ in range(rng.poisson(5)):
        _add_upright(scene, beside(), _depth(rng), 0.8, rng.uniform(1.5, 1.95), parts.pedestrian)
    for _ in range(rng.poisson(2)):
        kind, sideways = str(rng.choice(["bicycle", "motorcycle"])), rng.random() < 0.6
        size = (1.8 if sideways else 0.7, 1.1)
        _add_upright(scene, beside(), _depth(rng), *size, parts.two_wheeler, kind, False, sideways)
    for _ in range(rng.poisson(0.7)):  # bins and boxes: "static", which no class covers
        size = (rng.uniform(0.5, 1.2), rng.uniform(0.7, 1.5))
        colour = tint(rng, parts.PAINT)
        _add_upright(scene, beside(), _depth(rng), *size, lambda s, c=colour: s.fill(c, "static"))
    if street.rails[sign] and rng.random() < 0.8:
        _add_vehicle(scene, "train", sign * street.rails[sign], rng.uniform(1.5, 40))


def _add_traffic(scene: Scene, street: _Street) -> None:
    """Vehicles and riders on the lanes, and all that is on the crossing."""
    rng = scene.rng
    kinds, chances = ["car", "van", "truck", "bus"], [0.6, 0.1, 0.15, 0.15]
    machines = ["bicycle", "motorcycle"]
    for x in street.lanes:
        own = abs(x) < street.lane_width / 2
        parked = not own and abs(x) > 3 and rng.random() < 0.4
        z = rng.uniform(4.5, 30) if own else rng.uniform(0.5, 15)
        while z < 90:
            kind = str(rng.choice(kinds, p=chances))
            if not street.crosses(z, z + _VEHICLES[kind][2]):
                _add_vehicle(scene, kind, x + rng.uniform(-0.3, 0.3), z)
            z += _VEHICLES[kind][2] + rng.uniform(0.7, 3 if parked else 30)
    for _ in range(rng.poisson(2)):
        sign, machine = int(rng.choice([-1, 1])), str(rng.choice(machines))
        x = sign * (street.kerb[sign] - rng.uniform(0, 1.3))
        _add_upright(scene, x, 1.5 + _depth(rng), 0.8, 1.8, parts.two_wheeler, machine, True, False)
    for _ in range(rng.poisson(2) if street.crossing < np.inf else 0):
        x, z = rng.uniform(-14, 14), street.crossing + rng.uniform(1, 6)
        choice = rng.random()
        if choice < 0.4:
            kind = str(rng.choice(kinds, p=chances))
            _, height, length = _VEHICLES[kind]
            colour = tint(rng, parts.PAINT)
            _add_upright(scene, x, z, length, height, parts.vehicle_side, kind, colour)
        elif choice < 0.7:
            machine = str(rng.choice(machines))
            _add_upright(scene, x, z, 1.8, 1.8, parts.two_wheeler, machine, True, True)
        else:
            height = rng.uniform(1.5, 1.95)
            _add_upright(scene, x / 3, street.crossing - 2, 0.8, height, parts.pedestrian)


def _photograph(scene: Scene) -> np.ndarray:
    """Bonnet, lens and sensor: blur, vignetting, colour cast, exposure, noise."""
    rng, height, width = scene.rng, scene.height, scene.width
    if rng.random() < 0.35:
        centre = (width // 2, height)
        axes = (int(0.48 * width), int(rng.uniform(0.04, 0.14) * height))
        cv2.ellipse(scene.image, centre, axes, 0, 0, 360, tint(rng, parts.PAINT), -1)
        cv2.ellipse(scene.ids, centre, axes, 0, 0, 360, LABEL_ID["ego vehicle"], -1)
    image = cv2.GaussianBlur(scene.image, (0, 0), rng.uniform(0.3, 0.9)).astype(np.float32)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    vignette = 1 - rng.uniform(0, 0.25) * (x**2 + y**2)
    exposure = rng.uniform(0.7, 1.3) * rng.normal(1, 0.05, 3)
    image *= (vignette[..., None] * exposure).astype(np.float32)
    grain = rng.standard_normal(image.shape, np.float32)
    image += grain * (rng.uniform(1, 7) * (0.4 + image / 255))
    return np.clip(image, 0, 255).astype(np.uint8)


def check_size(size: tuple[int, int]) -> None:
    if min(size) < 16:
        raise ValueError(f"size must be at least 16x16 pixels, got {size[0]}x{size[1]}")


def render_street_scene(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        size: Height and width in pixels, at least 16 each.
        seed: Any non-negative integer. The same seed and size give the same pixels (with the same
            releases of numpy and OpenCV).

    Returns:
        The image, uint8 ``[H, W, 3]`` in RGB order, and its label ids (not training ids) as in
        Cityscapes, uint8 ``[H, W]``. :data:`TRAIN_IDS` maps the latter to training ids.

    Raises:
        ValueError: A side of ``size`` is shorter than 16 pixels.
    """
    check_size(size)
    rng = np.random.default_rng(seed)
    scene, street = Scene(size, rng), _Street(rng)
    _paint_sky(scene)
    _paint_ground(scene, street)
    wide = 1.6 * _FAR * scene.width / scene.focal
    scene.add(_FAR + 1, scene.upright, 0, _FAR, wide, rng.uniform(5, 22), parts.skyline)
    for sign in (-1, 1):
        _add_roadside(scene, street, sign)
        _add_pavement(scene, street, sign)
    _add_traffic(scene, street)
    scene.paint_parts()
    return _photograph(scene), scene.ids
