# Fine-tuning: all weights train, with small learning rates that shrink towards the input.
#
# What   The head learns at the config's learning rate; the backbone at a tenth of it, times 0.75
#        for each layer below. Shallow layers, which hold the general features, hardly move.
# When   Some labelled target images, and a source model whose features nearly fit.
#        Give the model its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Howard and Ruder, "ULMFiT", ACL 2018, arXiv 1801.06146 (discriminative fine-tuning);
#        Clark et al., "ELECTRA", ICLR 2020, arXiv 2003.10555 (layer-wise decay).
# Options of paramwise_cfg
#        base_lr_mult      multiplies every learning rate of the config
#        head_lr_mult      on top of that, for neck and head
#        layer_decay_rate  factor from one layer to the next shallower one; 1 switches it off
#        custom_keys, norm_decay_mult, bias_decay_mult, flat_decay_mult  as in mmengine
# Note   A scheduler with an absolute `eta_min` ends all layers at the same rate: use `eta_min_ratio`.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='LoadReportHook', new_classifier=True)]  # for other classes than load_from

optim_wrapper = dict(
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(base_lr_mult=0.1, head_lr_mult=10.0, layer_decay_rate=0.75),
)
