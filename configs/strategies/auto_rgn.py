# Auto-RGN: all layers train, each at a rate by how much the new data want to change it.
#
# What   Before the first step, gradients of some batches are measured; a layer's learning rate is
#        the config's, times 0.1, times its relative gradient norm |g| / |w| over the largest one.
# When   Some labelled target images, and no idea which layers should move: it finds out.
#        Give the model its weights: `load_from`, with the target's classes.
# Paper  Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023,
#        arXiv 2210.11466.
# Options of RelativeGradientNormHook (custom_hooks.RelativeGradientNormHook.*)
#        batches       how many are measured
# Options of paramwise_cfg
#        base_lr_mult  multiplies the config's learning rate
# Note   The paper measures again before each epoch. Layers of the smallest rates cost no backward
#        pass with `--strategy auto_rgn skip_slow_layers`. With 5 labels a class it was 2 to 11 points
#        ahead of fine_tune on the target of three pairs of four, 2 behind on cartoons, and forgot a
#        third to three fifths as much of the source (tools/benchmarks/few_labels.py).
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [
    dict(type='RelativeGradientNormHook', batches=8),
    dict(type='LoadReportHook', new_classifier=True),  # for other classes than load_from
]

optim_wrapper = dict(
    constructor='LayerwiseLROptimWrapperConstructor', paramwise_cfg=dict(base_lr_mult=0.1)
)
