# SDAT: a classification loss that is flat around the weights, beside an alignment.
#
# What   The gradient of the classification loss is taken where that loss is highest within a small
#        radius of the weights; all other losses keep theirs, since flatness harms an adversary. A
#        step takes two to three times as long.
# When   With `dann`, `cdan` or `mcc`, `--strategy dann mcc sdat`, where a step may take longer. Alone
#        it is sharpness-aware training on the labels (SAM).
# Paper  Rangwani et al., "A Closer Look at Smoothness in Domain Adversarial Training" (SDAT), ICML
#        2022, arXiv 2206.08213; Foret et al. (SAM), ICLR 2021, arXiv 2010.01412.
# Options of AdaptationClassifier (model.*)
#        sharpness_rho  the radius; 0.02 in the paper, 0.005 for its largest data. 0: off
# Note   The authors' code takes the other losses' gradients at the changed weights, too, and counts
#        MCC into the loss that changes them; here they are as in the paper's equation. Modules that
#        compute activations again (with_cp, activation_checkpointing) are refused. On the digits
#        as good as dann alone in twice the time (mean of 3 seeds): tools/benchmarks/overlays.py.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='AdaptationClassifier', sharpness_rho=0.02)
