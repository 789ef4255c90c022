# Two domains of PACS (Li et al., ICCV 2017, arXiv 1710.03077), folders data/pacs/DOMAIN/CLASS/*.jpg,
# any pair of them: PACS_SOURCE=art_painting PACS_TARGET=cartoon python tools/train.py ...
# A fifth of the source is held out, to see what a strategy keeps of it. As in the peers' examples,
# training sees all target images, without labels, and the same images are the test.
pacs_root = 'data/pacs'
source = '{{$PACS_SOURCE:photo}}'
target = '{{$PACS_TARGET:cartoon}}'
task = f'{source} -> {target}'
num_classes = 7
size = 96
data_preprocessor = dict(num_classes=num_classes, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=size),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=size * 8 // 7, edge='short'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
source_train = dict(type='CustomDataset', data_root=f'{pacs_root}/{source}', pipeline=train_pipeline)
source_test = dict(type='CustomDataset', data_root=f'{pacs_root}/{source}', pipeline=test_pipeline)
target_train = dict(
    type='CustomDataset', data_root=f'{pacs_root}/{target}', pipeline=train_pipeline, with_label=False)
target_test = dict(type='CustomDataset', data_root=f'{pacs_root}/{target}', pipeline=test_pipeline)
loader = dict(num_workers=1, persistent_workers=True, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    batch_size=24,
    drop_last=True,
    dataset=dict(type='KFoldDataset', dataset=source_train, fold=0, num_splits=5, seed=0),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader)
val_dataloader = dict(
    batch_size=100,
    dataset=dict(type='KFoldDataset', dataset=source_test, fold=0, num_splits=5, seed=0, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader)
test_dataloader = val_dataloader
domains = dict(target=dict(dataset=target_test))
val_cfg = dict(type='DomainValLoop', dataloaders=domains)
test_cfg = dict(type='DomainTestLoop', dataloaders=domains)
val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='TargetValidator')]
test_evaluator = dict(type='Accuracy', topk=(1,))
