# The paper's sampling and augmentation. Images that scale to less than the crop are padded to
# `data_preprocessor.size`. Leaf configs set the crop.
dataset_type = "CityscapesSplitDataset"
data_root = "{{$CITYSCAPES_DATASET:data/cityscapes}}"
# Whole images at their own size.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    # 31K batches of 16 are 167 epochs. How many of them the last part without coarse images takes
    # is our choice.
    sampler=dict(type="ClassUniformSampler", fine_only_after=143),
    dataset=dict(
        type="DrawnDataset",
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            split=0,
            part="train",
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations"),
                dict(type="RandomScaleCrop", crop_size=(896, 896), scale=(0.5, 2.0)),
                dict(type="RandomFlip", prob=0.5),
                dict(type="ColorJitter", brightness=0.25, contrast=0.25, saturation=0.25, hue=0.25),
                dict(type="GaussianBlur", sigma=(0.15, 1.30)),
                dict(type="PackSegInputs"),
            ],
        ),
        # The paper also takes the coarse images:
        # --cfg-options train_dataloader.dataset.coarse.annotations=coarse
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
        split=0,
        part="val",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
