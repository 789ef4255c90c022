# AdaBN: batch norms take their statistics from the target. No training, no labels.
#
# What   Before each evaluation the running means and variances are replaced by those of target
#        images. With tools/test.py it adapts a source checkpoint as it is; in training it does so
#        before each validation and at the end. What was before is logged as before_adabn/...
# When   First of all, where the network has batch norm: it costs one pass over target images. It
#        can lose accuracy on the source, which is logged where the source is evaluated too.
# Paper  Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation",
#        arXiv 1603.04779.
# Needs  Target images: a domain `target` of val_cfg and test_cfg (DomainValLoop, DomainTestLoop), or
#        custom_hooks.AdaBNHook.target_dataloader.dataset.data_root=data/target/train
# Options of AdaBNHook (custom_hooks.AdaBNHook.*)
#        target_dataloader  what it leaves out is inherited from test_dataloader
#        max_batches        batches to use at most; None uses all
#        report_before      False saves the evaluation before
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='AdaBNHook')]
