_base_ = [
    "./_base_/models/deeplabv3plus_wrn38.py",
    "./_base_/datasets/cityscapes.py",
    "./_base_/schedules/schedule_31k.py",
]
crop_size = (736, 736)
_base_.train_dataloader.dataset.dataset.pipeline[2].crop_size = crop_size
model = dict(data_preprocessor=dict(size=crop_size))
