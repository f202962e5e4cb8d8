_base_ = "./deeplabv3plus.py"
model = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        out_indices=(0, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=dict(type="SyncBN"),
        # ImageNet weights from zero padding, in both arms of the paper. To train without them:
        # --cfg-options model.backbone.init_cfg=None
        init_cfg=dict(
            type="PublishedWeights",
            checkpoint="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        ),
    ),
    decode_head=dict(in_channels=2048, c1_in_channels=256),
)
