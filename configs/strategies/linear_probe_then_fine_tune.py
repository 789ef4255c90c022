# Linear probe, then fine-tuning (LP-FT): the head trains alone, then all weights do.
#
# What   In the first half of the run only neck and head train on fixed features; in the second
#        half all layers do, the backbone at a tenth of the config's learning rate, which warms up.
# When   Labelled target images that also have to work away from where they were taken: a head
#        that fits before the backbone moves distorts its features less, which shows out of
#        distribution most.
#        Give the model its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
#        Out-of-Distribution", ICLR 2022, arXiv 2202.10054.
# Options of the hook
#        schedule      dict(milestones=[(0.5, ':-1')]): a fraction of the run, or with by_epoch=True
#                      (False) a number of epochs (iterations)
#        warmup_iters  iterations in which the backbone's rate grows once it trains
#        norm, norm_affine, dropout, droppath  of the frozen backbone, as in FreezeHook
# Options of paramwise_cfg
#        base_lr_mult, head_lr_mult, layer_decay_rate  as in fine_tune
# Note   See the plan before training with tools/show_layers.py.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [
    dict(
        type='GradualUnfreezeHook',
        layers=':-1',
        schedule=dict(milestones=[(0.5, ':-1')], by_epoch=False),
        warmup_iters=100,
    ),
    dict(type='LoadReportHook', new_classifier=True),  # for other classes than load_from
]

optim_wrapper = dict(
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(base_lr_mult=0.1, head_lr_mult=10.0),
)
