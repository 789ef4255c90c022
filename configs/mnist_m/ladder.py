# The ladder on MNIST and MNIST-M: python tools/ladder.py configs/mnist_m/ladder.py
# 50,000 training images of each domain, the next 1,000 for validation, 50 labels of the target; a
# sixth of the iterations of source_only.py, so that a rung takes minutes.
_base_ = 'source_only.py'
training, validation = 50000, list(range(50000, 51000))
mnist_m = dict(type='MNISTM', data_root={{_base_.mnist_m_root}}, pipeline={{_base_.target_pipeline}})
train_dataloader = dict(dataset=dict(indices=training))
val_dataloader = dict(dataset=dict(split='train', test_mode=False, indices=validation))
val_cfg = dict(
    dataloaders=dict(target=dict(dataset=dict(split='train', indices=validation))))
train_cfg = dict(max_iters=1500, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500))
few_labels = dict(
    train_cfg=dict(max_iters=300, val_interval=100), default_hooks=dict(checkpoint=dict(interval=100)))
ladder = dict(
    target_dataloader=dict(dataset=dict(indices=training, **mnist_m)),
    labelled_target_dataloader=dict(batch_size=25, dataset=dict(indices=50, **mnist_m)),
    rungs=dict(
        feature_extraction=dict(options=few_labels),
        linear_probe_then_fine_tune=dict(options=few_labels),
        fine_tune=dict(options=few_labels),
        fine_tune_l2_sp=dict(
            options=dict(model=dict(regularizers=dict(l2_sp=dict(exclude=[]))), **few_labels)),
    ))
del few_labels, mnist_m
