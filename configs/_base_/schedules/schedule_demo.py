_base_ = "../default_runtime.py"
# Minutes on two CPU cores. The seed is fixed so that both paddings start from the same weights and
# see the same batches.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=0, begin=50, end=300, by_epoch=False),
]
train_cfg = dict(type="ResumableTrainLoop", max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=10))
randomness = dict(seed=0)
