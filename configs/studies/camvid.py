# Does padding matter on CamVid? DeepLabV3+ ResNet18, slim enough for many runs on a few CPU cores.
_base_ = "../deeplabv3plus_r18_zero_camvid.py"
max_iters, val_interval = 2000, 250
study = dict(
    paddings=("zeros", "partial", "reflect", "replicate"),
    seeds=(0, 1, 2),
    # One entry per tile size, each an EvaluationPlan; all modes and leave-outs unless it says else.
    evaluation=(
        dict(tile=180, bands=(8, 16, 32, 64)),
        dict(tile=240, bands=(8, 16, 32, 64)),
    ),
    # Half a tile must be a multiple of the output stride, 16.
    shift=dict(tile=192, bin_width=6),
)
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    decode_head=dict(
        in_channels=128,
        c1_in_channels=16,
        c1_channels=16,
        channels=64,
        # Half the usual rates: a crop of 192 pixels is a map of 12, and reflection cannot pad by
        # more than the map has.
        dilations=(1, 3, 6, 9),
    ),
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
