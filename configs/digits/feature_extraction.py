# A new last layer on 50 labelled target images; all else stays the source model's.
# First: python tools/train.py configs/digits/source_only.py
_base_ = 'source_only.py'

load_from = 'work_dirs/source_only/epoch_20.pth'
train_dataloader = dict(batch_size=25, dataset=dict(quality='field', split='few'))
custom_hooks = [
    dict(type='LoadReportHook', new_classifier=True),
    dict(type='FreezeHook', layers=':-1', norm='eval', dropout='eval'),
]
train_cfg = dict(max_epochs=60, val_interval=10)
param_scheduler = dict(T_max=60)
default_hooks = dict(checkpoint=dict(interval=20))
