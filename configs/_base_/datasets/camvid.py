dataset_type = "CamVidDataset"
data_root = "{{$CAMVID_DATASET:data/camvid}}"
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="ResumableSampler"),
    dataset=dict(
        type="DrawnDataset",
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            data_prefix=dict(img_path="train", seg_map_path="trainannot"),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations"),
                dict(
                    type="RandomResize",
                    scale=(480, 360),
                    ratio_range=(0.5, 2.0),
                    keep_ratio=True,
                    interpolation="bicubic",
                ),
                dict(type="RandomCrop", crop_size=(192, 192)),
                dict(type="RandomFlip", prob=0.5),
                dict(type="PhotoMetricDistortion"),
                dict(type="PackSegInputs"),
            ],
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="valannot"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
