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
        alignments=dict(dann=dict(hidden_channels=[256], norm='BN', reversal_weight=0.1)),
    ),
    optim_wrapper=dict(optimizer=dict(lr=0.001)),
    train_cfg=dict(max_epochs=30),
    param_scheduler=dict(T_max=30),
)
# Backgrounds, noise and light are for the shallow layers, so these move like the others.
all_layers_alike = dict(
    paramwise_cfg=dict(base_lr_mult=1.0, head_lr_mult=1.0, layer_decay_rate=1.0)
)
ladder = dict(
    target_dataloader=dict(dataset=dict(quality='field', split='train')),
    labelled_target_dataloader=dict(
        batch_size=25, dataset=dict(quality='field', split='few')
    ),
    rungs=dict(
        feature_extraction=dict(options=few_labels),
        linear_probe_then_fine_tune=dict(
            options=dict(
                optim_wrapper=all_layers_alike,
                # Half of these few steps; the first hook is the base config's.
                custom_hooks={'1': dict(warmup_iters=10)},
                **few_labels,
            )
        ),
        fine_tune=dict(options=dict(optim_wrapper=all_layers_alike, **few_labels)),
        surgical_fine_tune=dict(options=dict(optim_wrapper=all_layers_alike, **few_labels)),
        auto_rgn=dict(options=dict(optim_wrapper=all_layers_alike, **few_labels)),
        fine_tune_l2_sp=dict(
            options=dict(
                model=dict(regularizers=dict(l2_sp=dict(exclude=[]))),
                optim_wrapper=all_layers_alike,
                **few_labels,
            )
        ),
        # All images in two views: so many epochs are enough.
        self_training=dict(
            options=dict(train_cfg=dict(max_epochs=12), param_scheduler=dict(T_max=12))
        ),
        dann=dict(options=adapted),
        dann_retention=dict(options=adapted),
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
del few_labels, adapted, all_layers_alike
