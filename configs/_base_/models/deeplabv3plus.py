# What the networks have in common. The two Cityscapes networks and the small one add their trunk
# and its channels.
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    decode_head=dict(
        type="DeepLabV3PlusHead",
        in_index=1,
        channels=256,
        num_classes=19,
        norm_cfg=dict(type="SyncBN"),
        # As in the authors' published code.
        align_corners=True,
        # The mean over labelled pixels: padding of small images must not dilute the loss.
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
