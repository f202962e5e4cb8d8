# Street scenes of tools/make_demo_data.py: the layout and classes of Cityscapes at 256x512.
_base_ = "./cityscapes.py"
data_root = "data/demo"
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(_delete_=True, type="ResumableSampler"),
    dataset=dict(
        dataset=dict(
            data_root=data_root,
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations"),
                dict(type="RandomCrop", crop_size=(192, 192)),
                dict(type="RandomFlip", prob=0.5),
                dict(type="PhotoMetricDistortion"),
                dict(type="PackSegInputs"),
            ],
        ),
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
