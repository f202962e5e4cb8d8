"""What the paper reports about segmentation and about testing across paddings.

Liu et al., *Partial Convolution based Padding*, arXiv 1811.11718, Tables 4 to 7.
"""

# Cityscapes mIoU (%) of whole images, DeepLabV3+, means of 3 runs: zero, partial. The default split
# and the additional one, each with ResNet50 and WideResNet38.
WHOLE_IMAGES = ((78.084, 78.204), (80.201, 80.313), (76.583, 76.912), (78.840, 79.004))
# Cityscapes mIoU (%), DeepLabV3+ WideResNet38, additional split: zero, partial, and their
# difference before rounding.
BY_MODE = {
    "regular": (79.069, 79.082, 0.012),
    "tile": (79.530, 79.907, 0.377),
    "tile_overlap": (79.705, 80.079, 0.374),
}
# Partial minus zero with tiles side by side, by leave-out: nothing, then five growing proportions
# whose values did not survive in our copy.
LEAVE_OUT_GAPS = (0.377, 0.385, 0.579, 0.834, 0.916, 1.249)
# ImageNet top-1 (percentage points) lost by testing ResNet50 under the other padding.
ZERO_TO_PARTIAL_LOSS, PARTIAL_TO_ZERO_LOSS = 16.36, 0.73
