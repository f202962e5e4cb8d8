_base_ = [
    "./_base_/models/deeplabv3plus_r18.py",
    "./_base_/datasets/camvid.py",
    "./_base_/schedules/schedule_10k.py",
]
# Output stride 16, with the rates that DeepLabV3+ uses for it: two CPU cores train this in hours.
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(num_classes=11, dilations=(1, 6, 12, 18)),
)
