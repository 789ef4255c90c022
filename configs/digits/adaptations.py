# What single methods do on the digits, from the same source model and without target labels.
# python tools/ladder.py configs/digits/adaptations.py --seeds 0 1 2 --rungs dann dann_sdat
_base_ = 'source_only.py'

thirty_epochs = dict(
    optim_wrapper=dict(optimizer=dict(lr=0.001)),
    train_cfg=dict(max_epochs=30),
    param_scheduler=dict(T_max=30),
)
adversary = dict(
    model=dict(
        alignments=dict(dann=dict(hidden_channels=[256], norm='BN', reversal_weight=0.1)),
    ),
    **thirty_epochs,
)
both = dict(data='source+target', start='source_only')
ladder = dict(
    target_dataloader=dict(dataset=dict(quality='field', split='train')),
    rungs=dict(
        dann=dict(options=adversary),
        dann_sdat=dict(strategies=['dann', 'sdat'], options=adversary, **both),
        dann_mcc=dict(strategies=['dann', 'mcc'], options=adversary, **both),
        dann_mcc_sdat=dict(strategies=['dann', 'mcc', 'sdat'], options=adversary, **both),
    ),
)
del thirty_epochs, adversary, both
