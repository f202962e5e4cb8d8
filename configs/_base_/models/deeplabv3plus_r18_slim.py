# A quarter of the trunk's channels, half of the head's: minutes on two CPU cores.
_base_ = "./deeplabv3plus_r18.py"
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    decode_head=dict(in_channels=128, c1_in_channels=16, c1_channels=16, channels=64),
)
