# The linear layer alone, on ImageNet features: --strategy frozen_alignment
_base_ = 'source_only.py'
model = dict(neck=None)  # a bottleneck would have random weights
train_cfg = dict(
    _delete_=True, type='FrozenAlignmentLoop', target_dataloader=dict(dataset={{_base_.target_train}}),
    neighbours=10)  # what is best on the other five pairs, whichever is left out
param_scheduler = None
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1))
