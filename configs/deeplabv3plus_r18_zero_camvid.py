_base_ = [
    "./_base_/models/deeplabv3plus_r18.py",
    "./_base_/datasets/camvid.py",
    "./_base_/schedules/schedule_10k.py",
]
model = dict(data_preprocessor=dict(size=(192, 192)), decode_head=dict(num_classes=11))
