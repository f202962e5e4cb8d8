# Does padding matter on CamVid?
_base_ = ["../_base_/study.py", "../_base_/datasets/camvid.py"]
study = dict(
    paddings=("zeros", "partial", "reflect", "replicate"),
    seeds=(0, 1, 2, 3, 4),
    # One entry per tile size, each an EvaluationPlan; all modes and leave-outs by default.
    # These are 180 and 240 pixels of the images at their own size.
    evaluation=(
        dict(tile=90, bands=(4, 8, 16, 32)),
        dict(tile=120, bands=(4, 8, 16, 32)),
    ),
    # Half a tile must be a multiple of the output stride, 8.
    shift=dict(tile=96, bin_width=3),
)
model = dict(decode_head=dict(num_classes=11))
train_dataloader = _base_.train_dataloader_halved
val_dataloader = _base_.test_dataloader_halved
test_dataloader = val_dataloader
