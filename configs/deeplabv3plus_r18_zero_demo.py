_base_ = [
    "./_base_/models/deeplabv3plus_r18.py",
    "./_base_/datasets/demo.py",
    "./_base_/schedules/schedule_demo.py",
]
# Slim, and with rates that fit 256x512 images as 12, 24 and 36 fit twice that size.
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    backbone=dict(stem_channels=16, base_channels=16),
    decode_head=dict(
        in_channels=128, c1_in_channels=16, c1_channels=16, channels=64, dilations=(1, 6, 12, 18)
    ),
)
