# Target images alone, from a source model, for a strategy that needs no source: --strategy shot
# The model is that of source_only.py: PACS_SOURCE_MODEL=work_dirs/source_only/iter_400.pth
_base_ = 'source_only.py'
load_from = '{{$PACS_SOURCE_MODEL:work_dirs/source_only/iter_400.pth}}'
train_dataloader = dict(
    _delete_=True,
    batch_size=48,  # as many a step as 24 + 24
    drop_last=True,
    dataset={{_base_.target_train}},
    sampler=dict(type='DefaultSampler', shuffle=True),
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'))
train_cfg = dict(_delete_=True, type='SourceFreeTrainLoop', max_iters=400, val_interval=100)
