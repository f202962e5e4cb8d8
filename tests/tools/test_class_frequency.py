import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from pconv_seg.datasets.sampling import frequency_table

TOOL = "class_frequency"
CONFIG = """
custom_imports = dict(imports=["pconv_seg"])
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        type="BaseSegDataset", data_root={root!r}, img_suffix=".png",
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        metainfo=dict(classes=("ground", "rare", "absent")),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
                  dict(type="RandomScaleCrop", crop_size=(8, 8), scale=(1, 1)),
                  dict(type="PackSegInputs")]))
"""


@pytest.fixture
def config(tmp_path):
    """Eight images of ground; one holds a single pixel of the rare class in each of two places."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(8):
        Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / f"images/{i}.png")
        label = np.zeros((32, 64), np.uint8)
        if i == 5:
            label[4, 4] = label[20, 50] = 1
        Image.fromarray(label).save(tmp_path / f"labels/{i}.png")
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(root=str(tmp_path)))
    return str(file)


def test_the_share_of_a_rare_class(main, config, tmp_path, capsys):
    plot = tmp_path / "plot.svg"
    options = ["train_dataloader.sampler.type=ClassUniformSampler",
               "train_dataloader.sampler.tile=32"]  # fmt: skip
    found = main([config, "--samples", "80", "--plot", str(plot), "--cfg-options", *options])
    uniform = found["class-uniform"]
    # Per epoch of 8: 2 crops at the rare class, 2 at the ground's centroids, 4 anywhere, of which
    # one at most may show it.
    assert 20 <= uniform.containing[1] <= 40
    assert uniform.containing[2] == uniform.pixels[2] == 0
    # Either pixel is in a crop of its own: the other one is too far away.
    assert uniform.pixels[1] == uniform.containing[1]
    assert found["random images"].containing[1] <= 10
    for frequency in found.values():
        assert frequency.pixels.sum() == 80 * 64
        assert frequency.containing[0] == frequency.samples == 80
    table = str(frequency_table(("ground", "rare", "absent"), found))
    assert table in capsys.readouterr().out
    assert plot.read_text().rstrip().endswith("</svg>")


def test_a_config_with_draws_is_compared_alike_by_any_number_of_workers(main, config):
    without = main([config, "--samples", "8", "--num-workers", "1"])
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset = dict(type="DrawnDataset", dataset=cfg.train_dataloader.dataset)
    cfg.dump(config)
    found = main([config, "--samples", "8"])
    for name in found:
        assert np.array_equal(found[name].pixels, without[name].pixels)


def test_only_data_sets_of_mmseg_are_compared(main, config):
    cfg = Config.fromfile(config)
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=1, dataset=inner)
    cfg.dump(config)
    with pytest.raises(
        SystemExit, match=r"train_dataloader\.dataset: RepeatDataset is no data set"
    ):
        main([config])


def test_without_a_sampler_the_default_one_is_compared(main, config):
    key = "train_dataloader.sampler"
    found, expected = (
        main([config, "--samples", "8", "--cfg-options", option])
        for option in (f"{key}=None", f"{key}.type=ClassUniformSampler")
    )
    for name in found:
        assert np.array_equal(found[name].pixels, expected[name].pixels)


def test_a_sampler_is_known_with_its_scope_too(main, config):
    option = "train_dataloader.sampler.type=pconv_seg.ClassUniformSampler"
    with pytest.raises(SystemExit, match="tile must be a positive number of pixels, got 0"):
        main([config, "--cfg-options", option, "train_dataloader.sampler.tile=0"])


def test_data_that_cannot_be_compared_are_named(main, config, tmp_path):
    Image.fromarray(np.full((32, 64), 3, np.uint8)).save(tmp_path / "labels/2.png")
    with pytest.raises(SystemExit, match=r"labels/2\.png: label value\(s\) 3; there are classes"):
        main([config, "--samples", "8"])
    with pytest.raises(SystemExit, match=r"class_frequency\.py: --cfg-options .*Index 9 exceeds"):
        main([config, "--cfg-options", "train_dataloader.dataset.pipeline.9.type=A"])
    with pytest.raises(SystemExit, match="no RandomScaleCrop"):
        main([config, "--cfg-options", "train_dataloader.dataset.pipeline=[]"])
