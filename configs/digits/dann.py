# The source model learns features that work on unlabelled target images too.
# First: python tools/train.py configs/digits/source_only.py
_base_ = 'source_only.py'

load_from = 'work_dirs/source_only/epoch_20.pth'
model = dict(
    type='AdaptationClassifier',
    alignments=dict(
        dann=dict(type='DANNHead', hidden_channels=[256], norm='BN', reversal_weight=0.1)
    ),
)
custom_hooks = [
    dict(type='LoadReportHook', new_classifier=True),
    dict(type='AdversaryMonitorHook'),
]
train_cfg = dict(
    _delete_=True,
    type='AdaptationTrainLoop',
    max_epochs=30,
    val_interval=2,
    target_dataloader=dict(dataset=dict(quality='field', split='train')),
)
optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = dict(T_max=30)
