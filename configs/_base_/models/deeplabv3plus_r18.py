# A small network that trains from scratch.
_base_ = "./deeplabv3plus.py"
model = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        out_indices=(0, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=dict(type="BN"),
    ),
    decode_head=dict(
        in_channels=512,
        c1_in_channels=64,
        channels=128,
        norm_cfg=dict(type="BN"),
        align_corners=False,
    ),
)
