# Label-shift guard: says when classes are not as frequent in the target as in the source.
#
# What   After each validation it estimates the target's class frequencies from predictions, without
#        labels, logs how far they are from the source's and warns where that is far. It can weigh
#        source images accordingly.
# When   With any alignment (`--strategy dann label_shift_guard`): adversarial alignments hurt where class
#        frequencies differ.
# Paper  Lipton et al., "Detecting and Correcting for Label Shift with Black Box Predictors", ICML
#        2018, arXiv 1802.03916; Saerens et al., Neural Computation 2002.
# Needs  A validation of both domains, val_cfg=dict(type='DomainValLoop', dataloaders=dict(target=...))
# Options of LabelShiftHook (custom_hooks)
#        method      'bbse' or 'em'
#        threshold   warn above this total variation
#        reweight    True weighs source images, in the classification loss and in adversaries
#        max_weight  the largest weight
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='LabelShiftHook')]
