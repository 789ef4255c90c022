# What single methods do on the digits, from the same source model and without target labels.
# python tools/ladder.py configs/digits/adaptations.py --seeds 0 1 2
_base_ = 'source_only.py'

few_epochs = dict(
    optim_wrapper=dict(optimizer=dict(lr=0.001)),
    train_cfg=dict(max_epochs=4),
    param_scheduler=dict(T_max=4),
)
# All that is trained on are unlabelled field digits.
target_alone = dict(
    train_dataloader=dict(batch_size=64, dataset=dict(quality='field', split='train')), **few_epochs
)
adversary = dict(
    model=dict(
        alignments=dict(dann=dict(hidden_channels=[256], norm='BN', reversal_weight=0.1)),
    ),
    **few_epochs,
)
both = dict(data='source+target', start='source_only')
alone = dict(start='source_only', options=target_alone)
ladder = dict(
    target_dataloader=dict(dataset=dict(quality='field', split='train')),
    rungs=dict(
        dann=dict(options=adversary),
        dann_sdat=dict(strategies=['dann', 'sdat'], options=adversary, **both),
        pseudo_label=dict(strategies=['pseudo_label'], options=few_epochs, **both),
        adamatch=dict(strategies=['adamatch'], options=few_epochs, **both),
        shot=dict(strategies=['shot'], **alone),
        aad=dict(strategies=['aad'], **alone),
    ),
)
del few_epochs, target_alone, adversary, both, alone
