import json

import pytest
from PIL import Image

TOOL = "padding_report"
CONFIG = """
model = dict(
    type="EncoderDecoder",
    backbone=dict(type="ResNet", depth=18, base_channels=8, num_stages=1, strides=(1,),
                  dilations=(1,), out_indices=(0,), norm_cfg=dict(type="SyncBN")),
    decode_head=dict(type="ASPPHead", in_channels=8, in_index=0, channels=8, dilations=(1, 6),
                     num_classes=3, align_corners=False),
)
"""


def test_prints_and_writes_the_report_of_a_config(main, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    main([str(config), "--size", "64x128", "--padding", "partial", *files])
    assert "decode_head.aspp_modules.1.conv" in capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["input_size"] == [64, 128]
    rows = {row["name"]: row for row in written["operations"]}
    aspp = rows["decode_head.aspp_modules.1.conv"]
    assert (aspp["scheme"], aspp["output_size"]) == ("partial", [16, 32])
    assert aspp["share"] == 1 - (4 * 20) / (16 * 32)
    narrower = main(
        [str(config), "--size", "64x128", "--cfg-options", "model.decode_head.dilations=1,3"]
    )
    rows = {row["name"]: row for row in narrower.as_dict()["operations"]}
    assert rows["decode_head.aspp_modules.1.conv"]["share"] == 1 - (10 * 26) / (16 * 32)
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_bad_arguments_end_with_one_line(main, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    with pytest.raises(
        SystemExit, match=r"padding_report\.py: decode_head\..* a map of 4x4 is too"
    ):
        main([str(config), "--size", "16x16", "--padding", "reflect"])
    config.write_text(CONFIG.replace("ASPPHead", "AsppHead"))
    with pytest.raises(SystemExit, match=r"config .*config\.py: .*AsppHead is not in the"):
        main([str(config)])
    config.write_text(CONFIG.replace("depth=18", "depth=18, foo=4"))
    with pytest.raises(SystemExit, match=r"config .*config\.py: .*__init__\(\) got .*'foo'$"):
        main([str(config)])
    unet = 'model = dict(type="EncoderDecoder", backbone=dict(type="UNet", base_channels=4), '
    head = 'decode_head=dict(type="FCNHead", in_channels=4, channels=4, in_index=4, num_classes=3))'
    config.write_text(unet + head)
    refused = r"--size 64x100: the network refuses it: The input image size \(64, 100\) should"
    with pytest.raises(SystemExit, match=refused):
        main([str(config), "--size", "64x100"])
    config.write_text("a = 1")
    with pytest.raises(SystemExit, match=r"model: config .*config\.py has none"):
        main([str(config)])
    with pytest.raises(SystemExit, match=r"config .*absent\.py"):
        main([str(tmp_path / "absent.py")])
    with pytest.raises(SystemExit):
        main(["a.py", "--size", "512"])
    assert "--size: '512' is not HEIGHTxWIDTH in pixels" in capsys.readouterr().err
