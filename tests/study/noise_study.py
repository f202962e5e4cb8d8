"""A study file whose data are noise: wide enough for batch norm, small enough for a second."""

import json

CLASSES = ("road", "sky")
CONFIG = """
default_scope = 'mmseg'
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
dataset = dict(
    type='BaseSegDataset', data_root='@DATA@', img_suffix='.png', seg_map_suffix='.png',
    data_prefix=dict(img_path='images', seg_map_path='labels'), pipeline=pipeline,
    metainfo=dict(classes=('road', 'sky'), palette=[[0, 0, 0], [255, 255, 255]]))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **{k: v for k, v in dataset.items() if k != 'pipeline'},
        pipeline=[*pipeline[:2], dict(type='RandomFlip', prob=0.5), pipeline[2]]))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 48)),
    backbone=dict(
        type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='BN'),
        strides=(1, 2, 1, 1)),
    decode_head=dict(
        type='FCNHead', in_channels=32, channels=8, num_classes=2, num_convs=1,
        norm_cfg=dict(type='BN'), dropout_ratio=0.1),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
log_processor = dict(by_epoch=False)
"""
STUDY = """
study = dict(
    paddings=@PADDINGS@, seeds=@SEEDS@,
    evaluation=(dict(tile=16, leave_outs=('1/2',), bands=(4,)),
                dict(tile=24, leave_outs=('1/2',), bands=(4,))),
    shift=dict(tile=16, bin_width=2))
"""


def study_of(*plans):
    """A study of one seed with these evaluations."""
    return (
        "study = dict(paddings=('zeros', 'partial'), seeds=(0,), "
        f"evaluation=({', '.join(plans)},), shift=dict(tile=16, bin_width=2))"
    )


def write_log(run, records):
    """Leave these records as what a training logged."""
    log = run.folder / "now" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{json.dumps(record)}\n" for record in records))
