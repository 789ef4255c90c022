# LoRA: low-rank adapters and the head train, all weights below stay.
#
# What   Beside the weight of each linear layer and 1x1 convolution of the backbone stands the product
#        of two narrow matrices, which learns in its place. Checkpoints have both added up: they are
#        those of the config's own network. The adapters alone are in adapters.pth.
# When   Some labelled target images and a large transformer or ConvNeXt: little memory for the
#        optimizer, little forgetting. Plain ResNets have too few such layers: `fine_tune`.
#        Give the model its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685.
# Options of LoRAClassifier (model.lora.*)
#        rank, alpha  width of the matrices; the update counts alpha / rank
#        layers       depths that are adapted: ':-1' is all but neck and head
# Options of LoRAHook (custom_hooks.LoRAHook.*)
#        adapters  a file adapters.pth to start from, beside the weights it was trained beside
# Options of WarmupHook (custom_hooks.WarmupHook.*)
#        share  of training in which the rate grows to the config's
# Note   What trains is a matter of FreezeHook: neck, head and adapters. The head learns at the config's
#        rate; where its classes are those of the source model, a tenth keeps more of the source, as
#        the ladder's rung does: constructor LayerwiseLROptimWrapperConstructor, head_lr_mult=0.1. So,
#        with 5 labels a class, it was 1 to 9 points ahead of fine_tune on the target of four pairs,
#        and forgot 24 to 39% as much of the source on three; on degraded photographs, where
#        fine_tune forgot 4 points, it forgot 3 (tools/benchmarks/few_labels.py).
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='LoRAClassifier', lora=dict(rank=8, alpha=16.0))
custom_hooks = [
    dict(type='FreezeHook', patterns=[r'^(?!head\.|neck\.|.*\.lora_)']),
    dict(type='LoRAHook'),
    dict(type='WarmupHook', share=0.1),  # as in the paper
    dict(type='LoadReportHook', new_classifier=True),  # for other classes than load_from
]
