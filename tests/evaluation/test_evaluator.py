import json
import re
from dataclasses import asdict, replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from known_segmentor import SIZE, border_blind
from PIL import Image
from torch.utils.data import DataLoader

from pconv_seg.evaluation.confusion import confusion_matrices
from pconv_seg.evaluation.evaluator import MODES, EvaluationPlan, evaluate
from pconv_seg.evaluation.samples import read_batches
from pconv_seg.geometry import BorderRegions, TileGrid

PLAN = EvaluationPlan(tile=(16, 20), leave_outs=["1/2", "3/4"], bands=(1, 4))


def read(config, kind, i):
    return np.array(Image.open(f"{config.test_dataloader.dataset.data_root}/{kind}/{i}.png"))


def truth(config, i):
    return read(config, "images", i)[..., ::-1].argmax(-1)


@pytest.fixture
def evaluated(make_segmentor, make_loader):
    """A function that evaluates networks, without any that of the config, on its data."""

    def run(config, plan, *models, **options):
        models = models or [make_segmentor(config)]
        return evaluate(models, make_loader(config), plan, progress=False, **options)

    return run


def windows(mode, plan):
    if mode == "regular":
        return None
    return list(TileGrid(SIZE, plan.tile, plan.mode_overlap(mode)))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("region", ["image", "tile"])
def test_counts_of_every_mode_are_those_of_the_known_answer(
    make_config, make_segmentor, evaluated, region, batch_size
):
    config = make_config(ignore_index=7)
    config.test_dataloader.batch_size = batch_size
    plan = replace(PLAN, region=region, batch_size=2, ignore_index=7)
    model = make_segmentor(config)
    result = evaluated(config, plan, model, model)
    assert result.plan == plan
    assert [name[-12:] for name in result.images] == [f"images/{i}.png" for i in range(3)]
    for i, counts in enumerate(result.counts):
        assert np.array_equal(counts[0], counts[1])
        for mode, matrices in zip(MODES, counts[0], strict=True):
            prediction = border_blind(truth(config, i), windows(mode, plan))
            regions = plan.regions(mode)
            label = read(config, "labels", i)
            expected = confusion_matrices(label, prediction, 3, regions, ignore_index=7)
            assert np.array_equal(matrices, expected), mode


def test_label_that_is_not_counted_is_the_data_sets(make_config, evaluated):
    config = make_config(ignore_index=1)  # within the classes: counting it would raise no error
    dataset = config.test_dataloader.dataset
    plan = EvaluationPlan(modes=["regular"])
    dataset.ignore_index = 7  # where a plan has its own, it does not matter
    expected = evaluated(config, replace(plan, ignore_index=1)).counts
    dataset.ignore_index = 1
    repeated = {"type": "RepeatDataset", "times": 1, "dataset": dataset}
    other = {**dataset, "ignore_index": 7}
    for parts in ([dataset], [repeated], [repeated, other]):
        config.test_dataloader.dataset = {"type": "ConcatDataset", "datasets": parts}
        if other in parts:
            with pytest.raises(ValueError, match=r"must have one ignore_index, got \[1, 7\]"):
                evaluated(config, plan)
        else:
            result = evaluated(config, plan)
            assert result.plan.ignore_index == 1
            assert np.array_equal(result.counts, expected)


@pytest.mark.parametrize("order", [[0, 1], [1]])  # of all processes, and of the second of two
def test_tile_defaults_to_the_short_side_of_the_data_sets_first_image(
    make_config, make_segmentor, make_loader, order
):
    config = make_config(images=2)
    for kind in ("images", "labels"):
        path = f"{config.test_dataloader.dataset.data_root}/{kind}/1.png"
        Image.fromarray(read(config, kind, 1)[:20]).save(path)
    loader = make_loader(config)
    loader = DataLoader(loader.dataset, sampler=order, collate_fn=loader.collate_fn)
    plan = EvaluationPlan(modes=["tile"])
    result = evaluate([make_segmentor(config)], loader, plan, progress=False)
    assert [name[-5:] for name in result.images] == [f"{i}.png" for i in order]
    assert result.plan.tile == 24


@pytest.mark.parametrize(
    ("modes", "tile", "warns"),
    [
        (["tile"], 40, True),
        (["regular", "tile_overlap"], (24, 40), True),
        (["regular"], 40, False),
        (["tile"], (24, 39), False),
    ],
)
def test_tiles_that_cut_nothing_are_said(make_config, evaluated, recwarn, modes, tile, warns):
    evaluated(make_config(images=2), EvaluationPlan(modes=modes, tile=tile))
    said = [str(w.message) for w in recwarn if "no image is larger than a tile" in str(w.message)]
    assert len(said) == warns


def test_label_maps_are_shown_to_the_visitor(make_config, evaluated):
    config = make_config(images=2)
    seen = []
    evaluated(
        config,
        replace(PLAN, modes=["tile", "regular"]),
        visit=lambda sample, maps, _: seen.append((sample.img_path[-5:], maps)),
    )
    assert [name for name, _ in seen] == ["0.png", "1.png"]
    for i, (_, [maps]) in enumerate(seen):
        for mode in ("tile", "regular"):
            expected = border_blind(truth(config, i), windows(mode, PLAN))
            assert np.array_equal(maps[mode][0], expected)


def test_padding_of_the_preprocessor_is_taken_away(make_config, evaluated):
    config = make_config(images=1)
    config.model.data_preprocessor.test_cfg = {"size_divisor": 16}
    plan = replace(PLAN, modes=["regular"], bands=())
    result = evaluated(config, plan)
    padded = np.pad(truth(config, 0), ((0, 8), (0, 8)))  # to 32 x 48
    regions = plan.regions("regular")
    expected = confusion_matrices(
        read(config, "labels", 0), border_blind(padded)[:24, :40], 3, regions
    )
    assert np.array_equal(result.counts[0][0, 0], expected)


def test_each_network_gets_tiles_of_what_its_own_preprocessor_makes(
    make_config, make_segmentor, evaluated
):
    config = make_config(images=1)
    plain = make_segmentor(config)
    config.model.data_preprocessor.test_cfg = {"size_divisor": 16}
    plan = EvaluationPlan(modes=["tile"], tile=16)
    counts = evaluated(config, plan, make_segmentor(config), plain).counts[0][:, 0]
    padded = np.pad(truth(config, 0), ((0, 8), (0, 8)))  # to 32 x 48
    for matrices, seen in zip(counts, (padded, truth(config, 0)), strict=True):
        prediction = border_blind(seen, list(TileGrid(seen.shape, 16)))[:24, :40]
        regions = plan.regions("tile")
        label = read(config, "labels", 0)
        assert np.array_equal(matrices, confusion_matrices(label, prediction, 3, regions))


@pytest.mark.parametrize("options", [{"region": "tile"}, {"bands": (4,)}])
def test_regions_that_follow_tiles_are_refused_if_any_network_sees_padding(
    make_config, make_segmentor, evaluated, options
):
    config = make_config(images=1)
    plain = make_segmentor(config)
    config.model.data_preprocessor.test_cfg = {"size_divisor": 16}
    plan = EvaluationPlan(tile=16, **options)
    message = r"images/0\.png: .*8 pixels on the right, 8 at the bottom.*region 'image', no bands"
    with pytest.raises(ValueError, match=message):
        evaluated(config, plan, make_segmentor(config), plain)


def test_training_state_and_random_numbers_stay(make_config, make_segmentor, evaluated):
    config = make_config(images=1)
    model = make_segmentor(config).train()
    model.backbone.eval()
    before = torch.get_rng_state()
    evaluated(config, PLAN, model)
    assert model.training
    assert not model.backbone.training
    assert torch.equal(before, torch.get_rng_state())


def test_files_that_do_not_fit_are_named(make_config, evaluated):
    config = make_config()
    labels = f"{config.test_dataloader.dataset.data_root}/labels"
    Image.fromarray(np.full(SIZE, 3, np.uint8)).save(f"{labels}/1.png")
    with pytest.raises(ValueError, match=r"labels/1\.png: label values \[3\] are neither"):
        evaluated(config, PLAN)
    Image.fromarray(np.zeros((24, 41), np.uint8)).save(f"{labels}/1.png")
    with pytest.raises(ValueError, match=r"labels/1\.png: the label has 24 x 41 pixels"):
        evaluated(config, PLAN)


def test_images_of_a_batch_that_differ_in_size_are_named(make_config, evaluated):
    config = make_config()
    root = config.test_dataloader.dataset.data_root
    config.test_dataloader.batch_size = 2
    for kind in ("images", "labels"):
        Image.fromarray(read(config, kind, 1)[:20]).save(f"{root}/{kind}/1.png")
    files = rf"{root}/images/0\.png \(24 x 40\), {root}/images/1\.png \(20 x 40\)"
    message = f"^{files}: images of one batch must have one size; set test_dataloader.batch_size=1"
    with pytest.raises(ValueError, match=message):
        evaluated(config, PLAN)


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_cannot_be_read_are_named(make_config, make_segmentor, make_loader, workers):
    config = make_config()
    config.test_dataloader.num_workers = workers
    root = Path(config.test_dataloader.dataset.data_root)
    model, loader = make_segmentor(config), make_loader(config)
    others = active_children()
    for kind, content, message in [
        ("labels", lambda old: old[:-100], r"labels/1\.png: OSError: image file is truncated"),
        ("labels", lambda old: b"", r"labels/1\.png: UnidentifiedImageError: cannot identify"),
        ("images", lambda old: b"", r"images/1\.png: not an image that OpenCV can read"),
    ]:
        path = root / kind / "1.png"
        before = path.read_bytes()
        path.write_bytes(content(before))
        with pytest.raises(ValueError, match=rf"^{root}/{message}"):
            evaluate([model], loader, PLAN, progress=False)
        path.write_bytes(before)
        assert set(active_children()) <= set(others)  # no worker that waits for more to read
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "labels/1.png")
    message = r"labels/1\.png: a label is one class per pixel, .* the shape 24 x 40 x 3: perhaps"
    with pytest.raises(ValueError, match=message):
        evaluate([model], loader, PLAN, progress=False)


def test_an_error_of_no_single_file_ends_the_evaluation():
    def refuse(samples):
        raise RuntimeError("no batch")

    with pytest.raises(RuntimeError, match="no batch"):
        list(read_batches(DataLoader([0], collate_fn=refuse)))


def test_an_image_that_the_network_refuses_is_named(make_config, make_segmentor, evaluated):
    config = make_config()
    model, calls = make_segmentor(config), []

    def encode_decode(inputs, metas):
        calls.append(inputs)
        if len(calls) == 2:
            raise ValueError("too small")
        return inputs

    model.encode_decode = encode_decode
    with pytest.raises(ValueError, match=r"images/1\.png: too small"):
        evaluated(config, EvaluationPlan(modes=["regular"]), model)


def test_missing_ground_truth_and_resizing_are_named(make_config, evaluated):
    config = make_config(images=1)
    pipeline = config.test_dataloader.dataset.pipeline
    pipeline.insert(1, {"type": "Resize", "scale": (80, 48)})
    plan = EvaluationPlan(modes=["regular"], leave_outs=[])
    [[[[found]]]] = evaluated(config, plan).counts
    # It sees each pixel four times, so the one that it is blind to costs none.
    assert np.array_equal(found, np.diag(np.bincount(read(config, "labels", 0).ravel())[:3]))
    height, width = SIZE
    for size in ((48, 80), (2 * height, width), (height, 2 * width)):
        pipeline[1].update(scale=size[::-1], keep_ratio=False)
        message = f"tested at their own size, but the pipeline makes {size} of {SIZE}"
        with pytest.raises(ValueError, match=re.escape(message)):
            evaluated(config, PLAN)
    pipeline[1:3] = []
    with pytest.raises(ValueError, match=r"images/0\.png has no ground truth"):
        evaluated(config, PLAN)


def test_an_open_tile_is_the_shorter_side_of_upright_images_too(make_config, evaluated):
    config = make_config(images=1, size=(40, 24))
    assert evaluated(config, EvaluationPlan()).plan.tile == 24


def test_a_forward_has_as_many_tiles_as_the_plan_says(make_config, make_segmentor, evaluated):
    config = make_config(images=1)
    model, sizes = make_segmentor(config), []

    def encode_decode(inputs, metas):
        sizes.append(len(inputs))
        return inputs

    model.encode_decode = encode_decode
    plan = EvaluationPlan(modes=["regular", "tile"], tile=8, batch_size=4)  # 3 x 5 tiles
    evaluated(config, plan, model)
    assert sizes == [1, 4, 4, 4, 3]


def test_labels_of_one_logit_are_counted(make_config, make_segmentor, evaluated):
    """Of which mmseg makes labels that are no integers."""
    config = make_config(classes=("sky", "tree"), ignore_index=2)
    model = make_segmentor(config)
    model.decode_head.threshold = 0.5
    model.encode_decode = lambda inputs, metas: inputs[:, 1:2] - 0.5
    plan = EvaluationPlan(modes=["regular", "tile"], tile=8, leave_outs=[])
    result = evaluated(config, plan, model)
    for i, [modes] in enumerate(result.counts):
        sky, tree, _ = np.bincount(read(config, "labels", i).ravel())
        assert modes.tolist() == [[[[sky, 0], [0, tree]]]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["whole"]}, "modes must be some of regular, tile, tile_overlap"),
        ({"modes": []}, "modes must be some of"),
        ({"overlap": (2, "1/3")}, r"overlap must be one value for both axes, got \(2, '1/3'\)"),
        ({"overlap": 1.0}, r"overlap must lie in \[0, 1\)"),
        ({"tile": 0}, "tile must be a positive number of pixels"),
        ({"tile": 32, "overlap": 32}, "overlap of 32 pixels must be smaller than the tile"),
        ({"leave_outs": [1]}, r"leave-out must lie in \[0, 1\)"),
        ({"leave_outs": "1/2"}, "leave_outs must be a list, got '1/2'"),
        ({"bands": 4}, "bands must be a list, got 4"),
        ({"region": "crop"}, "region must be 'image' or 'tile'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_plans_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationPlan(**options)


def test_a_plan_has_each_mode_once():
    assert EvaluationPlan(modes=["tile", "regular", "tile"]).modes == ("tile", "regular")


def test_a_plan_of_numpys_numbers_is_one_of_pythons():
    side, overlap, distance = np.array([8, 3, 2])
    plan = EvaluationPlan(
        tile=[side, 8], overlap=overlap, leave_outs=np.ones(1) / 2, bands=[distance]
    )
    assert plan == EvaluationPlan(tile=(8, 8), overlap=3, leave_outs=(0.5,), bands=(2,))
    assert json.loads(json.dumps(asdict(plan)))["overlap"] == 3


def test_regions_of_a_plan():
    plan = EvaluationPlan(
        tile=16, overlap=3, leave_outs=["1/2"], proportion="area", region="tile", bands=(4,)
    )
    for mode, overlap in (("regular", 0), ("tile", 0), ("tile_overlap", 3)):
        assert plan.regions(mode) == BorderRegions([0, "1/2"], "area", "tile", (4,), 16, overlap)


@pytest.mark.parametrize(("tile", "text"), [(180, "180"), ((128, 256), "128x256")])
def test_the_size_of_tiles_in_words(tile, text):
    assert EvaluationPlan(tile=tile).tile_text == text
