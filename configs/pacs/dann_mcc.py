# DANN and MCC together, with gentler crops than the peers' and twice their learning rate.
_base_ = 'dann.py'
model = dict(alignments=dict(mcc=dict(type='MCCAlignment')))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale={{_base_.size}}, crop_ratio_range=(0.4, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=pipeline)))
train_cfg = dict(target_dataloader=dict(dataset=dict(pipeline=pipeline)))
del pipeline
optim_wrapper = dict(optimizer=dict(lr=0.02))
