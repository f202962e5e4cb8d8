_base_ = "../default_runtime.py"
# For small networks that train from scratch on small data.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=0, begin=100, end=10000, by_epoch=False),
]
train_cfg = dict(type="ResumableTrainLoop", max_iters=10000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
auto_scale_lr = dict(enable=False, base_batch_size=8)
