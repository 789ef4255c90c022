# mmpretrain's ResNet-18 for CIFAR with a quarter of its channels.
_base_ = 'mmpretrain::_base_/models/resnet18_cifar.py'

model = dict(
    # The scans have 8x8 pixels: the first block may halve the image, for a third of the time. Blocks
    # that start as identities take a third of so short a schedule to get going.
    backbone=dict(
        stem_channels=16, base_channels=16, strides=(2, 2, 2, 2), zero_init_residual=False
    ),
    head=dict(in_channels=128),
)
