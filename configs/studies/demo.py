# Does padding matter on drawn street scenes? The demo's network, trained longer.
_base_ = "../deeplabv3plus_r18_zero_demo.py"
max_iters, val_interval = 1600, 200
study = dict(
    paddings=("zeros", "partial", "reflect", "replicate"),
    seeds=(0, 1, 2),
    # One entry per tile size, each an EvaluationPlan; all modes and leave-outs unless it says else.
    # As in the paper, the larger tiles are as high as the images.
    evaluation=(
        dict(tile=128, bands=(8, 16, 32, 64)),
        dict(tile=256, bands=(8, 16, 32, 64)),
    ),
    shift=dict(tile=128, bin_width=4),
)
model = dict(
    # Output stride 16 halves the time.
    backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    # A tile of 128 pixels is a map of 8, and reflection cannot pad by more than the map has.
    decode_head=dict(dilations=(1, 2, 4, 6)),
)
# Many runs share the cores; workers would only compete with them.
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=0, begin=100, end=max_iters, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
# The last checkpoint counts, whatever its score: choosing by the validation split would flatter.
default_hooks = dict(checkpoint=dict(interval=val_interval, save_best=None))
