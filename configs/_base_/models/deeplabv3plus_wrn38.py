_base_ = "./deeplabv3plus.py"
model = dict(
    backbone=dict(
        type="WideResNet38",
        norm_cfg=dict(type="SyncBN"),
        # ImageNet weights from zero padding, in both arms of the paper. To train without them:
        # --cfg-options model.backbone.init_cfg=None
        init_cfg=dict(type="PublishedWeights", checkpoint="pretrained/wider_resnet38.pth.tar"),
    ),
    decode_head=dict(in_channels=4096, c1_in_channels=128),
)
