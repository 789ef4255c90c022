# Surgical fine-tuning: the stem and the first block train, all else stays.
#
# What   The layers nearest to the image learn at a tenth of the config's learning rate; the others
#        keep weights and running statistics, the head included.
# When   Some labelled target images that differ from the source as a corruption does (blur, noise,
#        light): the shallow layers undo it, and what the deep ones know stays. The classes must be
#        those of the source model: load_from=SOURCE_CHECKPOINT. Where things themselves look
#        otherwise (cartoons), `fine_tune`.
# Paper  Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023,
#        arXiv 2210.11466.
# Options of FreezeHook (custom_hooks.FreezeHook.*)
#        layers    which depths freeze: '2:' leaves the stem and one block; '4:' three blocks
#        norm      'train': the running statistics of frozen norms follow the target
# Options of paramwise_cfg
#        base_lr_mult  multiplies the config's learning rate
# Note   Which depths there are: tools/show_layers.py. With 5 labels a class it forgot less of the source
#        than fine_tune on each of four pairs; on the target it was 0 to 2 points ahead on degraded
#        digits, 5 behind on degraded photographs, 23 behind on cartoons; `auto_rgn` was ahead of it
#        on the target of all (tools/benchmarks/few_labels.py).
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='FreezeHook', layers='2:', norm='eval', dropout='eval')]

optim_wrapper = dict(
    constructor='LayerwiseLROptimWrapperConstructor', paramwise_cfg=dict(base_lr_mult=0.1)
)
