_base_ = "./deeplabv3plus_wrn38_zero_cityscapes_split2.py"
conv_cfg = dict(type="PConv")
model = dict(backbone=dict(conv_cfg=conv_cfg), decode_head=dict(conv_cfg=conv_cfg))
