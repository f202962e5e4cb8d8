# What the studies have in common: half resolution and a slim DeepLabV3+ ResNet18, so that many runs
# finish on a few CPU cores. Sizes and distances are in pixels of the halved images.
_base_ = ["./models/deeplabv3plus_r18_slim.py", "./default_runtime.py"]
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    # A crop of 96 pixels becomes a map of 12, and reflection can only pad by less than that.
    decode_head=dict(dilations=(1, 3, 6, 9)),
)
# Under names of their own, since the base of the data set has the usual ones. Many runs share the
# cores; workers would only compete with them.
train_dataloader_halved = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        decoded_cache=dict(folder="work_dirs/study_decoded", max_gb=1),
        dataset=dict(
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations"),
                dict(type="RandomScaleCrop", crop_size=(96, 96), scale=(0.375, 0.75)),
                dict(type="RandomFlip", prob=0.5),
                dict(type="PackSegInputs"),
            ]
        ),
    ),
)
test_dataloader_halved = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="ResizeOriginal", scale_factor=0.5, interpolation="area"),
            dict(type="PackSegInputs"),
        ]
    ),
)
# Of a few choices, this rate and this light augmentation learned fastest, in 1000 iterations on
# CamVid with zero padding and a separate seed.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.15, momentum=0.9, weight_decay=1e-4),
)
max_iters, val_interval = 6400, 800
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=100, by_epoch=False),
    # Slow at its end, so that the curves level off.
    dict(type="CosineAnnealingLR", eta_min=0, begin=100, end=max_iters, by_epoch=False),
]
train_cfg = dict(type="ResumableTrainLoop", max_iters=max_iters, val_interval=val_interval)
# The last checkpoint counts, whatever its score: choosing by the validation split would flatter.
default_hooks = dict(checkpoint=dict(interval=val_interval, save_best=None))
