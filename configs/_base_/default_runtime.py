default_scope = "mmseg"
custom_imports = dict(imports=["pconv_seg"], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
visualizer = dict(
    type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer"
)
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    # The schedule sets the interval.
    checkpoint=dict(
        type="ResumableCheckpointHook", by_epoch=False, save_best="mIoU", max_keep_ckpts=1
    ),
    finite_loss=dict(type="FiniteLossHook"),
    stop=dict(type="StopOnSignalHook"),
    visualization=dict(type="SegVisualizationHook"),
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

tta_model = dict(type="SegTTAModel")
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale_factor=factor, keep_ratio=True)
                for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [
                dict(type="RandomFlip", prob=0.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
            ],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
