# The ladder on embedded digits: python tools/ladder.py configs/digits/ladder.py
_base_ = 'source_only.py'

# The few labels make two batches an epoch, so that many epochs take seconds.
few_labels = dict(
    train_cfg=dict(max_epochs=60, val_interval=10),
    param_scheduler=dict(T_max=60),
    default_hooks=dict(checkpoint=dict(interval=20)),
)
adapted = dict(
    model=dict(
        alignments=dict(dann=dict(hidden_channels=[256], norm='BN', coefficient=0.1)),
    ),
    optim_wrapper=dict(optimizer=dict(lr=0.001)),
    train_cfg=dict(max_epochs=30),
    param_scheduler=dict(T_max=30),
)
ladder = dict(
    target_dataloader=dict(dataset=dict(quality='field', split='train')),
    labelled_target_dataloader=dict(
        batch_size=25, dataset=dict(quality='field', split='few')
    ),
    rungs=dict(
        feature_extraction=dict(options=few_labels),
        # Backgrounds, noise and light are for the shallow layers, so these move like the others.
        fine_tune=dict(
            options=dict(
                optim_wrapper=dict(
                    paramwise_cfg=dict(base_lr_mult=1.0, head_lr_mult=1.0, layer_decay_rate=1.0)
                ),
                **few_labels,
            )
        ),
        dann=dict(start='source_only', options=adapted),
        dann_pseudo_label=dict(
            strategies=['dann', 'pseudo_label'],
            data='source+target',
            start='source_only',
            about='Beside that, learns its own confident predictions on strongly augmented target '
            'images, still without target labels.',
            options=adapted,
        ),
    ),
)
del few_labels, adapted
