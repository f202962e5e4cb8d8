# Does padding matter on drawn street scenes?
_base_ = ["../_base_/study.py", "../_base_/datasets/demo.py"]
study = dict(
    paddings=("zeros", "partial", "reflect", "replicate"),
    seeds=(0, 1, 2, 3, 4),
    # One entry per tile size, each an EvaluationPlan; all modes and leave-outs by default.
    # As in the paper, the larger tiles are as high as the images.
    evaluation=(
        dict(tile=64, bands=(4, 8, 16, 32)),
        dict(tile=128, bands=(4, 8, 16, 32)),
    ),
    # Half a tile must be a multiple of the output stride, 8.
    shift=dict(tile=64, bin_width=2),
)
# A tile of 64 pixels is a map of 8.
model = dict(decode_head=dict(dilations=(1, 2, 4, 6)))
train_dataloader = _base_.train_dataloader_halved
val_dataloader = _base_.test_dataloader_halved
test_dataloader = val_dataloader
