# DANN, and the model's own confident predictions as labels of strongly augmented target images.
_base_ = 'dann.py'
model = dict(alignments=dict(pseudo_label=dict(type='PseudoLabelAlignment')))
# Nothing that inverts colours, which is close to how MNIST-M is made.
policies = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Rotate', magnitude_range=(0, 30)),
    dict(type='Posterize', magnitude_range=(4, 0)),
    dict(type='ColorTransform', magnitude_range=(0, 0.9)),
    dict(type='Contrast', magnitude_range=(0, 0.9)),
    dict(type='Brightness', magnitude_range=(0, 0.9)),
    dict(type='Sharpness', magnitude_range=(0, 0.9)),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
    dict(type='Translate', magnitude_range=(0, 0.2), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 0.2), direction='vertical'),
]
train_cfg = dict(
    strong_view=[
        dict(type='RandAugment', policies=policies, num_policies=2, total_level=10, magnitude_level=9, magnitude_std=0.5),
        dict(type='Cutout', shape=8, pad_val=128),
    ])
del policies
