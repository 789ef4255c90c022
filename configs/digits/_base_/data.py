# Digits: clean scans are the source, the same kind of digits seen by a field camera the target.
data_preprocessor = dict(
    num_classes=10, mean=[128.0, 128.0, 128.0], std=[64.0, 64.0, 64.0], to_rgb=False
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='Invert', prob=0.5),
    dict(type='ColorJitter', brightness=0.5, contrast=0.5),
    dict(type='PackInputs'),
]
# In memory and tiny: worker processes would cost more than they bring.
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    dataset=dict(type='DigitsDataset', quality='clean', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='DigitsDataset', quality='clean', split='val', pipeline=[dict(type='PackInputs')]
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='DigitsDataset', quality='clean', split='test', pipeline=[dict(type='PackInputs')]
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
# Both domains are measured; what a loader doesn't set is inherited from the source's above.
val_cfg = dict(
    type='DomainValLoop',
    dataloaders=dict(target=dict(dataset=dict(quality='field', split='val'))),
)
test_cfg = dict(
    type='DomainTestLoop',
    dataloaders=dict(target=dict(dataset=dict(quality='field', split='test'))),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = dict(type='Accuracy', topk=(1,))
