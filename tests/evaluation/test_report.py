import numpy as np

from pconv_seg.evaluation import EvaluationPlan, record
from pconv_seg.evaluation.report import Report

TABLES = """
mIoU (%) of the whole image
checkpoint | padding | tile 8x10, overlap 2
run/a.pth | zeros | 62.500
run/b.pth | partial | 100.000
diff | | +37.500 *
95% interval | | [+37.500, +37.500]
mIoU (%) by leave-out (share of the image's side): tile 8x10, overlap 2
checkpoint | padding | 0 | 1/2
run/a.pth | zeros | 62.500 | 25.000
run/b.pth | partial | 100.000 | 25.000
diff | | +37.500 * | +0.000
95% interval | | [+37.500, +37.500] | [+0.000, +0.000]
mIoU (%) by distance to the image border (pixels): tile 8x10, overlap 2
checkpoint | padding | 0-2 | >= 3
run/a.pth | zeros | 25.000 | 10.000
run/b.pth | partial | 62.500 | 25.000
diff | | +37.500 * | +15.000 *
95% interval | | [+37.500, +37.500] | [+15.000, +15.000]
mIoU (%) by distance to the nearest tile seam (pixels): tile 8x10, overlap 2
checkpoint | padding | 0-2 | >= 3
run/a.pth | zeros | 100.000 | 25.000
run/b.pth | partial | 10.000 | 62.500
diff | | -90.000 * | +37.500 *
95% interval | | [-90.000, -90.000] | [+37.500, +37.500]
IoU (%) by leave-out: run/a.pth (zeros), tile 8x10, overlap 2
class | 0 | 1/2
sky | 75.000 | 25.000
tree | 50.000 | 25.000
road | absent | absent
IoU (%) by leave-out: run/b.pth (partial), tile 8x10, overlap 2
class | 0 | 1/2
sky | 100.000 | 25.000
tree | 100.000 | 25.000
road | absent | absent
diff: second row minus first. * its 95% interval (paired bootstrap over 6 images, 2000 resamples, \
seed 5) excludes 0.
absent in some mode, and not in its mean: leave out 0: road
absent in some mode, and not in its mean: leave out 1/2: road
absent in some mode, and not in its mean: border distance 0-2: road
absent in some mode, and not in its mean: border distance >= 3: road
absent in some mode, and not in its mean: seam distance 0-2: road
absent in some mode, and not in its mean: seam distance >= 3: road
"""


def test_tables_of_two_networks():
    # Of 8 pixels of sky and 2 of trees so many of the sky are said to be trees, by network and
    # region, and in all images: whatever is drawn, the scores are the same.
    wrong = np.array([[2, 6, 6, 8, 0, 6], [0, 6, 2, 6, 8, 2]])[:, None]
    right, none = 8 - wrong, np.zeros_like(wrong)
    rows = [[right, none + 2, none], [none + 8, none + 2, none], [right, wrong + 2, none]]
    areas = np.moveaxis(np.array(rows), (0, 1), (-2, -1))
    plan = EvaluationPlan(["tile_overlap"], (8, 10), 2, ["1/2"], bands=[3])
    networks = ("run/a.pth", "zeros", "zeros"), ("run/b.pth", "partial", "partial")
    counts = record.Record(
        "config.py",
        ("sky", "tree", "road"),
        tuple(record.Tested(*network) for network in networks),
        plan,
        tuple(f"{i}.png" for i in range(6)),
        np.array([areas] * 6),
        reduced=True,
    )
    text = Report(counts, seed=5).tables(per_class=True)
    rows = (line.strip("|") for line in text.splitlines() if line and line[0] != "+")
    found = [" ".join(row.split()) for row in rows]
    assert found == TABLES.strip().splitlines()
    assert "sky" not in Report(counts).tables()


def test_regions_in_which_nothing_is_counted_have_no_score():
    areas = np.zeros((1, 2, 1, 2, 3, 1), int)  # images, networks, modes, regions, areas, classes
    areas[:, :, :, 0] = 4
    tested = record.Tested("a.pth", "zeros", "zeros"), record.Tested("b.pth", "partial", "partial")
    plan = EvaluationPlan(["regular"], None, 0, ["1/2"])
    counts = record.Record("config.py", ("sky",), tested, plan, ("0.png",), areas, reduced=True)
    text = Report(counts).tables()
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()]
    assert ["zeros", "100.000", "absent"] in rows
    assert ["", "+0.000", "absent"] in rows
    assert "nan" not in text


def test_classes_that_one_network_alone_predicts_are_named():
    areas = np.zeros((1, 2, 2, 1, 3, 3), int)  # images, networks, modes, regions, areas, classes
    areas[..., 0] = 4  # sky, and no trees
    areas[0, 1, 0, 0, 2, 2] = 1  # a pixel of whole images that the second network takes for road
    tested = record.Tested("a.pth", "zeros", "zeros"), record.Tested("b.pth", "partial", "partial")
    plan = EvaluationPlan(["regular", "tile"], 8, 0, [])
    classes = "sky", "tree", "road"
    report = Report(record.Record("c.py", classes, tested, plan, ("0.png",), areas, reduced=True))
    assert report.miou.ravel().tolist() == [100, 100, 50, 100]
    assert report.tables().splitlines()[-2:] == [
        "absent in some mode, and not in its mean: leave out 0: tree, road",
        "in the mean of some checkpoints alone, since the others predict none: leave out 0: road",
    ]
