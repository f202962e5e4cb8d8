_base_ = "../default_runtime.py"
# 31K iterations, SGD and polynomial decay are the paper's. The learning rate and the power are
# our choice: the paper's are not known to us.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0, begin=0, end=31000, by_epoch=False)]
train_cfg = dict(type="ResumableTrainLoop", max_iters=31000, val_interval=3100)
default_hooks = dict(checkpoint=dict(interval=3100))
# The learning rate is for 8 GPUs with 2 images each;
# `--cfg-options auto_scale_lr.enable=True` adapts it to another number of images.
auto_scale_lr = dict(enable=False, base_batch_size=16)
