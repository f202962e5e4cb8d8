# The paper's augmentation as far as stock transforms go: PhotoMetricDistortion stands for a colour
# jitter of 0.25, and the Gaussian blur is left out. Crops reach past small images through
# `data_preprocessor.size`, which pads them. Leaf configs set the crop.
dataset_type = "CityscapesDataset"
data_root = "{{$CITYSCAPES_DATASET:data/cityscapes}}"
# Whole images in their own size.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(
                type="RandomResize",
                scale=(2048, 1024),
                ratio_range=(0.5, 2.0),
                keep_ratio=True,
                interpolation="bicubic",
            ),
            dict(type="RandomCrop", crop_size=(896, 896)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
