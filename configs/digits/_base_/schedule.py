# Half a minute on two cores.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05))
param_scheduler = dict(
    type='CosineAnnealingLR', T_max=20, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=2)
auto_scale_lr = dict(base_batch_size=32)
