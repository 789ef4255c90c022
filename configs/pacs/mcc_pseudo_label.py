# MCC, and the model's own confident predictions as labels of strongly augmented target images.
_base_ = 'adapt.py'
model = dict(
    alignments=dict(
        mcc=dict(type='MCCAlignment'), pseudo_label=dict(type='PseudoLabelAlignment', threshold=0.8, ramp=False)))
# Gentler crops than the peers', twice their learning rate.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale={{_base_.size}}, crop_ratio_range=(0.4, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=pipeline)))
train_cfg = dict(
    target_dataloader=dict(dataset=dict(pipeline=pipeline)),
    strong_view=[
        dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=9,
             magnitude_std=0.5),
    ])
del pipeline
optim_wrapper = dict(optimizer=dict(lr=0.02))
