"""What the parts of :mod:`.street` look like.

Each function draws one flat sprite: its colours and its label ids.
"""

import cv2
import numpy as np

from .canvas import LABEL_ID, Colour, Point, Points, Sprite, ellipse, noise, rectangle, tint

MASONRY = [(150, 132, 116), (128, 96, 82), (172, 160, 138), (118, 118, 120), (98, 88, 84)]
PAVING = [(104, 104, 106), (122, 118, 112), (92, 92, 98), (134, 126, 116)]
GREEN = [(74, 92, 46), (96, 104, 58), (58, 76, 44), (116, 112, 70)]
PAINT = [
    (30, 30, 34),
    (190, 190, 194),
    (120, 124, 130),
    (140, 32, 30),
    (36, 54, 104),
    (200, 165, 60),
]
_CLOTH = [(38, 38, 46), (66, 72, 92), (122, 48, 46), (150, 146, 140), (50, 74, 58), (172, 140, 60)]
_METAL = [(96, 98, 100), (128, 128, 126), (62, 66, 64), (112, 96, 80)]
_SKIN = [(196, 152, 126), (140, 100, 78), (92, 64, 50)]
_GLASS = (48, 56, 66)
_DARK = (22, 22, 24)
# Outlines from the side, rear to front, and windows: number, first and last x, top, bottom.
_BODIES = {
    "car": [(0, 0.88), (0.04, 0.03), (0.66, 0.03), (0.8, 0.42), (1, 0.55), (1, 0.88)],
    "van": [(0, 0.88), (0, 0.03), (0.75, 0.03), (0.9, 0.45), (1, 0.55), (1, 0.88)],
    "truck": [(0, 0.88), (0, 0), (0.74, 0), (0.77, 0.25), (1, 0.25), (1, 0.88)],
    "bus": rectangle(0, 0.03, 1, 0.9),
    "train": rectangle(0, 0.03, 1, 0.98),
}
_PANES = {
    "car": (2, 0.1, 0.74, 0.12, 0.42),
    "van": (1, 0.6, 0.82, 0.12, 0.42),
    "truck": (1, 0.84, 0.97, 0.3, 0.5),
    "bus": (6, 0.03, 0.97, 0.16, 0.5),
    "train": (4, 0.03, 0.97, 0.2, 0.5),
}
# Radius as a share of length and height.
_WHEELS = {"car": (0.077, 0.22), "van": (0.062, 0.14), "truck": (0.058, 0.14), "bus": (0.038, 0.14)}


def masonry(s: Sprite, label: str) -> None:
    s.fill(tint(s.rng, MASONRY), label)
    s.roughen(0.12, s.height / 3)
    courses = s.rng.normal(1, 0.07, (max(1, s.height // 3), max(1, s.width // 5)))
    s.shade(cv2.resize(courses, (s.width, s.height), interpolation=cv2.INTER_NEAREST))


def facade(s: Sprite, storeys: int, columns: int) -> None:
    masonry(s, "building")
    rows = np.linspace(0, storeys, s.height, endpoint=False)
    across = np.linspace(0, columns, s.width, endpoint=False)
    low, high = s.rng.uniform(0.12, 0.3), s.rng.uniform(0.7, 0.85)
    open_rows = (rows % 1 > low) & (rows % 1 < high)
    narrow = s.rng.uniform(0.1, 0.3)
    open_columns = (across % 1 > narrow) & (across % 1 < 1 - narrow)
    brightness = s.rng.choice([0.6, 0.8, 1.0, 1.3, 2.6], (storeys, columns, 1))
    glass = (brightness * _GLASS).astype(np.uint8)[rows.astype(int)][:, across.astype(int)]
    window = open_rows[:, None] & open_columns
    np.copyto(s.rgba[..., :3], glass, where=window[..., None])
    if s.rng.random() < 0.5:  # shop windows and an awning
        top = 1 - 0.8 / storeys
        s.poly(rectangle(0.05, top, 0.95, 1), _GLASS)
        s.poly(rectangle(0.05, top, 0.95, top + 0.2 / storeys), tint(s.rng, PAINT))
    s.poly(rectangle(0, 0, 1, 0.3 / storeys), tint(s.rng, MASONRY))


def fence(s: Sprite) -> None:
    """Bars or a mesh that show what is behind; the label covers the gaps, as in Cityscapes."""
    s.poly(rectangle(0, 0, 1, 1), None, "fence")
    colour = tint(s.rng, _METAL + MASONRY)
    step = s.rng.integers(4, 9)
    bars = np.zeros((s.height, s.width), bool)
    bars[:, ::step] = bars[:, 1::step] = True
    bars[:: max(3, s.height // 3)] = True
    s.rgba[bars] = (*colour, 255)


def foliage(s: Sprite, crown: float) -> None:
    """Leaves in an uneven blob that ends ``crown`` above the lower edge (a hedge with 0)."""
    x = np.linspace(-1, 1, s.width, dtype=np.float32)
    y = np.linspace(-1, 1, s.height, dtype=np.float32)[:, None]
    y = (y + 1) / (1 - crown) - 1 if crown else np.minimum(y, 0)
    power = 2 if crown else 8
    coarse = noise(s.rng, s.height, s.width, max(3, s.width / 4))
    blob = x**power + y**power + 0.45 * coarse < 0.8
    if crown:
        s.poly(rectangle(0.47, 0.4, 0.53, 1), tint(s.rng, [(70, 58, 46)]), "vegetation")
    s.ids[blob] = LABEL_ID["vegetation"]
    fine = noise(s.rng, s.height, s.width, max(2, s.width / 16))
    leaves = blob & (fine > -0.9)
    s.rgba[leaves] = (*tint(s.rng, GREEN), 255)
    s.shade(1 + 0.3 * fine - 0.3 * y)


def skyline(s: Sprite) -> None:
    """Hills with blocks in between."""
    hills = (0.55 - 0.18 * noise(s.rng, 1, s.width, s.width / 4)) * s.height
    behind = np.arange(s.height)[:, None] > hills
    s.ids[behind] = LABEL_ID["vegetation"]
    s.rgba[behind] = (*tint(s.rng, GREEN), 255)
    for left in s.rng.uniform(0, 1, s.rng.integers(0, 14)):
        block = rectangle(left, s.rng.uniform(0, 0.8), left + s.rng.uniform(0.02, 0.1), 1)
        s.poly(block, tint(s.rng, MASONRY), "building")
    s.roughen(0.15, max(2, s.width / 60))


def _figure(s: Sprite, label: str, head: Point, hip: Point, feet: Points, hands: Points) -> None:
    """A person: limbs as lines from hip to feet and from the shoulders to the hands."""
    coat, trousers, skin = tint(s.rng, _CLOTH), tint(s.rng, _CLOTH), tint(s.rng, _SKIN)
    aspect = s.width / s.height
    thick = 0.06 / aspect
    shoulder = (head[0] + 0.25 * (hip[0] - head[0]), head[1] + 0.15)
    for foot in feet:
        s.poly([hip, foot], trousers, label, line=1.1 * thick)
    broad = 1.2 * thick
    torso = [
        (shoulder[0] - broad, shoulder[1] - 0.03),
        (shoulder[0] + broad, shoulder[1] - 0.03),
        (hip[0] + 0.9 * broad, hip[1] + 0.03),
        (hip[0] - 0.9 * broad, hip[1] + 0.03),
    ]
    s.poly(torso, coat, label)
    for hand in hands:
        s.poly([shoulder, hand], coat, label, line=0.8 * thick)
    s.poly(ellipse(*head, 0.058 / aspect, 0.068), skin, label)
    if s.rng.random() < 0.6:  # hair or helmet
        s.poly(ellipse(head[0], head[1] - 0.03, 0.06 / aspect, 0.045), tint(s.rng, _CLOTH), label)


def pedestrian(s: Sprite) -> None:
    stride, swing = s.rng.uniform(0.05, 0.35), s.rng.uniform(0.15, 0.4)
    feet = [(0.5 - stride, 0.98), (0.5 + stride, 0.98)]
    hands = [(0.5 - swing, 0.52), (0.5 + swing, 0.5)]
    _figure(s, "person", (0.5, 0.08), (0.5, 0.52), feet, hands)
    if s.rng.random() < 0.25:  # a bag
        s.poly(rectangle(0.6, 0.42, 0.9, 0.6), tint(s.rng, PAINT), "person")


def two_wheeler(s: Sprite, kind: str, ridden: bool, sideways: bool) -> None:
    """A bicycle or motorcycle, seen from its side or from behind."""
    colour = tint(s.rng, PAINT)
    top = 0.55 if ridden else 0.1  # of the wheels: the machine fills the sprite if nobody rides
    radius, middle = (1 - top) / 2.1, 1 - (1 - top) / 2.1
    heavy = kind == "motorcycle"
    for x in (0.22, 0.78) if sideways else (0.5,):
        wheel = ellipse(x, middle, 0.2 if sideways else 0.09 + 0.09 * heavy, radius)
        s.poly(wheel, _DARK if heavy or not sideways else None, kind)
        s.poly(wheel, _DARK, kind, line=0.03)
    if sideways:
        frame = [(0.22, middle), (0.4, top), (0.7, top), (0.78, middle), (0.5, middle)]
        s.poly(frame, colour, kind, line=0 if heavy else 0.04)
    else:
        s.poly(rectangle(0.1, top, 0.9, top + 0.06), _DARK, kind)
        if heavy:
            s.poly(rectangle(0.25, top, 0.75, middle), colour, kind)
    if ridden and sideways:
        feet, hands = [(0.45, 0.85), (0.58, 0.75)], [(0.7, top - 0.02)]
        _figure(s, "rider", (0.58, 0.09), (0.4, top - 0.02), feet, hands)
    elif ridden:
        feet, hands = [(0.3, 0.85), (0.7, 0.8)], [(0.15, top), (0.85, top)]
        _figure(s, "rider", (0.5, 0.08), (0.5, 0.5), feet, hands)


def vehicle_side(s: Sprite, kind: str, colour: Colour) -> None:
    label = "car" if kind == "van" else kind
    s.poly(_BODIES[kind], colour, label)
    if kind == "truck":
        s.poly(rectangle(0, 0, 0.74, 0.78), tint(s.rng, PAINT + MASONRY))
    elif kind in ("bus", "train"):
        s.poly(rectangle(0, 0.6, 1, 0.68), tint(s.rng, PAINT))
    panes, first, last, top, bottom = _PANES[kind]
    step = (last - first) / panes
    for x in first + step * np.arange(panes):
        s.poly(rectangle(x + 0.06 * step, top, x + 0.94 * step, bottom), _GLASS)
    for x in (0.2, 0.8) if kind in _WHEELS else ():
        radius_x, radius_y = _WHEELS[kind]
        s.poly(ellipse(x, 1 - radius_y, radius_x, radius_y), _DARK, label)
    s.shade(1.1 - 0.25 * np.linspace(0, 1, s.height)[:, None])
    s.roughen(0.06, s.height / 2)


def vehicle_end(s: Sprite, kind: str, colour: Colour, lamps: Colour) -> None:
    label = "car" if kind == "van" else kind
    side = 0.1 if kind == "car" else 0.0
    body = [(0, 0.9), (0, 0.45), (side, 0.02), (1 - side, 0.02), (1, 0.45), (1, 0.9)]
    s.poly(body, colour, label)
    if kind == "truck":
        s.poly(rectangle(0.03, 0.04, 0.97, 0.72), tint(s.rng, PAINT + MASONRY))
        s.poly(rectangle(0.49, 0.04, 0.51, 0.72), _DARK)
    else:
        s.poly([(0.1, 0.45), (side + 0.05, 0.12), (0.95 - side, 0.12), (0.9, 0.45)], _GLASS)
    top = 0.55 if kind == "car" else 0.74
    for x in (0.04, 0.78):
        s.poly(rectangle(x, top, x + 0.18, top + 0.08), lamps)
        s.poly(rectangle(x, 0.84, x + 0.16, 1), _DARK, label)
    s.poly(rectangle(0.36, 0.68, 0.64, 0.78), (200, 198, 186))
    s.roughen(0.06, s.height / 2)


def pole(s: Sprite, top: str) -> None:
    """A post in the middle, 2 m wide in all; ``top``: lamp, sign, light or nothing."""
    metal = tint(s.rng, _METAL)
    s.poly(rectangle(0.475, 0, 0.525, 1), metal, "pole")
    if top == "lamp":
        s.poly(rectangle(0.05, 0, 0.5, 0.015), metal, "pole")
        s.poly(rectangle(0.02, 0, 0.2, 0.03), (206, 204, 190), "pole")
    elif top == "light":
        s.poly(rectangle(0.4, 0.02, 0.6, 0.26), _DARK, "traffic light")
        lit = s.rng.integers(3)
        for i, colour in enumerate([(230, 40, 30), (240, 180, 40), (60, 220, 130)]):
            colour = colour if i == lit else (46, 40, 38)
            s.poly(ellipse(0.5, 0.06 + 0.08 * i, 0.07, 0.03), colour)
    elif top == "sign":
        y = 0.0
        for _ in range(s.rng.integers(1, 3)):
            r = s.rng.uniform(0.13, 0.2)
            corners = int(s.rng.choice([3, 4, 16]))
            rim = s.rng.choice([(176, 34, 36), (30, 70, 150), (206, 206, 206), (120, 122, 124)])
            plate = tint(s.rng, [(214, 214, 210), (40, 80, 160), (90, 92, 94)])
            for scale, colour in ((1, rim.tolist()), (0.7, plate)):
                outline = ellipse(0.5, y + r * 0.65, r * scale, r * 0.6 * scale, corners)
                s.poly(outline, colour, "traffic sign")
            y += 1.25 * r
