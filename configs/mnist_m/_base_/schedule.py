_base_ = 'mmpretrain::_base_/default_runtime.py'
# The paper's training: SGD with momentum 0.9, lr / (1 + 10 p)^0.75, batches of 64 + 64. Its learning
# rate is 0.01 (dann_paper.py); 0.1 was chosen on the last 10,000 images of the target's training
# split, held out for that. Without the clipping some seeds end with a dead network there.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(type='InverseDecayLR', alpha=10.0, beta=0.75, by_epoch=False)
train_cfg = dict(by_epoch=False, max_iters=9000, val_interval=1000)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', interval=1000, by_epoch=False, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
