_base_ = 'mmpretrain::_base_/default_runtime.py'
# The peers' training, all weights: SGD, the backbone at a tenth of the learning rate, 24 + 24 images.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(base_lr_mult=0.1, head_lr_mult=10.0))
param_scheduler = dict(type='InverseDecayLR', alpha=0.4, beta=0.75, by_epoch=False)
train_cfg = dict(by_epoch=False, max_iters=400, val_interval=100)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', interval=100, by_epoch=False, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
