# Gradual unfreezing: the head trains first, then layer by layer what lies below it.
#
# What   The backbone is frozen at the start: weights, running statistics, dropout. Its layers begin
#        to train one after the other, the deepest first, evenly spread over the first half of the
#        run, each with its own learning rate, which warms up when the layer begins to train.
# When   Few labelled target images and a good source model: features that a fresh head would
#        distort at first stay as they are until the head fits.
#        Give the model its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Howard and Ruder, "ULMFiT", ACL 2018, arXiv 1801.06146 (gradual unfreezing).
# Options of the hook
#        schedule      dict(until=0.5): evenly spread over this part of the run;
#                      dict(every=1): a layer each epoch (by_epoch=False: each iteration);
#                      dict(milestones=[(5, '-3:-1'), (10, '0:-3')]): given layers at given epochs;
#                      dict(monitor='accuracy/top1', patience=2): when the metric stops improving;
#                      layers_per_step=2 with any but milestones
#        layers        what is frozen at the start: ':-1' is all but neck and head
#        warmup_iters  iterations in which the rate of newly trained layers grows
#        norm, norm_affine, dropout, droppath  of what is frozen, as in FreezeHook
#        check_ranks   True: check that all ranks hold equal weights
# Note   A resumed run goes on exactly; on more than two ranks to the bit only with
#        find_unused_parameters=True. See the plan before training with tools/show_layers.py.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [
    dict(
        type='GradualUnfreezeHook',
        layers=':-1',
        schedule=dict(until=0.5, by_epoch=False),
        warmup_iters=100,
    ),
    dict(type='LoadReportHook', new_classifier=True),  # for other classes than load_from
]

optim_wrapper = dict(
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(base_lr_mult=0.1, head_lr_mult=10.0, layer_decay_rate=0.75),
)
