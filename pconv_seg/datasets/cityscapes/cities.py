"""Cities of Cityscapes, their numbers of images, and the splits made from them.

The numbers are those of the published archives (https://www.cityscapes-dataset.com/downloads/);
the ones per city were counted in the public file lists of HRNet-Semantic-Segmentation.
"""

# Finely annotated images per city. Labels of test cities are not public.
FINE_IMAGES = {
    "train": {
        "aachen": 174,
        "bochum": 96,
        "bremen": 316,
        "cologne": 154,
        "darmstadt": 85,
        "dusseldorf": 221,
        "erfurt": 109,
        "hamburg": 248,
        "hanover": 196,
        "jena": 119,
        "krefeld": 99,
        "monchengladbach": 94,
        "strasbourg": 365,
        "stuttgart": 196,
        "tubingen": 144,
        "ulm": 95,
        "weimar": 142,
        "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {
        "berlin": 544,
        "bielefeld": 181,
        "bonn": 46,
        "leverkusen": 58,
        "mainz": 298,
        "munich": 398,
    },
}
# Coarsely annotated cities. Their numbers of images are not published, only the sum.
COARSE_CITIES = (
    "augsburg",
    "bad-honnef",
    "bamberg",
    "bayreuth",
    "dortmund",
    "dresden",
    "duisburg",
    "erlangen",
    "freiburg",
    "heidelberg",
    "heilbronn",
    "karlsruhe",
    "konigswinter",
    "konstanz",
    "mannheim",
    "muhlheim-ruhr",
    "nuremberg",
    "oberhausen",
    "saarbrucken",
    "schweinfurt",
    "troisdorf",
    "wuppertal",
    "wurzburg",
)
COARSE_IMAGES = 19998
# The publishers call this image of `train_extra` corrupt: it is black. It is left out everywhere.
BLACK_FRAME = "troisdorf_000000_000073"

SPLITS = (0, 1, 2)
_VALIDATION_CITIES = 3


def split_cities(split: int, part: str) -> list[tuple[str, str]]:
    """Cities of a split of the finely annotated images.

    The 3 cities of `val` and the 18 of `train`, in this order and each sorted, make 21. Split `s`
    validates on 3 consecutive ones from index `s * 21 // 3` on, and trains on all others. Split 0
    is the usual one.

    Args:
        split: 0, 1 or 2.
        part: `train` or `val`, or `test`, which is the same in every split.

    Returns:
        The folder (`train`, `val` or `test`) and the name of each city.

    Raises:
        ValueError: There is no such split or part.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(map(str, SPLITS))}")
    if part not in FINE_IMAGES:
        raise ValueError(f"part {part!r} is not one of {', '.join(FINE_IMAGES)}")
    if part == "test":
        return [("test", city) for city in FINE_IMAGES["test"]]
    cities = [(folder, city) for folder in ("val", "train") for city in sorted(FINE_IMAGES[folder])]
    first = split * len(cities) // len(SPLITS)
    validation = cities[first : first + _VALIDATION_CITIES]
    return validation if part == "val" else [city for city in cities if city not in validation]
