# MNIST, labelled, is the source; MNIST-M, made by tools/make_mnist_m.py, the target without labels.
task = 'MNIST -> MNIST-M'
mnist_root = 'data/mnist'
mnist_m_root = 'data/mnist_m'
data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False)
source_pipeline = [dict(type='RepeatChannels'), dict(type='PackInputs')]
target_pipeline = [dict(type='PackInputs')]
loader = dict(num_workers=1, persistent_workers=True, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    batch_size=64,
    drop_last=True,
    dataset=dict(type='MNIST', data_root=mnist_root, download=False, pipeline=source_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader)
val_dataloader = dict(
    batch_size=500,
    # mmpretrain's MNIST goes by test_mode.
    dataset=dict(type='MNIST', data_root=mnist_root, split='test', test_mode=True, download=False, pipeline=source_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader)
test_dataloader = val_dataloader
target_test = dict(type='MNISTM', data_root=mnist_m_root, split='test', pipeline=target_pipeline)
val_cfg = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=target_test)))
test_cfg = dict(type='DomainTestLoop', dataloaders=dict(target=dict(dataset=target_test)))
val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='TargetValidator')]
test_evaluator = dict(type='Accuracy', topk=(1,))
