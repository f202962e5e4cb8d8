_base_ = [
    "./_base_/models/deeplabv3plus_r18_slim.py",
    "./_base_/datasets/demo.py",
    "./_base_/schedules/schedule_demo.py",
]
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    # These rates fit 256x512 images as 12, 24 and 36 fit twice that size.
    decode_head=dict(dilations=(1, 6, 12, 18)),
)
