_base_ = "./deeplabv3plus_wrn38_zero_cityscapes.py"
# Validates on monchengladbach, strasbourg and stuttgart instead of frankfurt, lindau and munster.
train_dataloader = dict(dataset=dict(dataset=dict(split=2)))
val_dataloader = dict(dataset=dict(split=2))
test_dataloader = val_dataloader
