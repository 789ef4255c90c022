# All weights of the source model on 50 labelled target images.
# First: python tools/train.py configs/digits/source_only.py
_base_ = 'source_only.py'

load_from = 'work_dirs/source_only/epoch_20.pth'
train_dataloader = dict(batch_size=25, dataset=dict(quality='field', split='few'))
# Backgrounds, noise and light are for the shallow layers, so these move like the others.
# Where a target differs in what things look like, try 0.75.
optim_wrapper = dict(
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(base_lr_mult=1.0, head_lr_mult=1.0, layer_decay_rate=1.0),
)
train_cfg = dict(max_epochs=60, val_interval=10)
param_scheduler = dict(T_max=60)
default_hooks = dict(checkpoint=dict(interval=20))
