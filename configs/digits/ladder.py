# The ladder on embedded digits: python tools/ladder.py configs/digits/ladder.py
_base_ = 'source_only.py'

# The few labels make two batches an epoch, so a longer schedule costs seconds.
few_labels = dict(
    train_cfg=dict(max_epochs=60, val_interval=10),
    param_scheduler=dict(T_max=60),
    default_hooks=dict(checkpoint=dict(interval=20)),
)
ladder = dict(
    target_dataloader=dict(dataset=dict(quality='field', split='train')),
    labelled_target_dataloader=dict(
        batch_size=25, dataset=dict(quality='field', split='few')
    ),
    rungs=dict(
        feature_extraction=dict(options=few_labels),
        fine_tune=dict(options=few_labels),
        dann=dict(
            start='source_only',
            options=dict(
                model=dict(
                    alignments=dict(
                        dann=dict(hidden_channels=[256], norm='BN', coefficient=0.3)
                    )
                ),
                optim_wrapper=dict(optimizer=dict(lr=0.001)),
            ),
        ),
    ),
)
