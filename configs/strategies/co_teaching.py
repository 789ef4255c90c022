# Co-teaching, with one network: the images with the largest losses are left out.
#
# What   Networks learn wrong labels last, so that their losses stay large. In each batch a share of
#        the labelled images, those with the largest losses, is left out of the classification loss:
#        none at first, then more, up to forget_rate. Each of several sources chooses by itself.
# When   Some labels are wrong, about as many as forget_rate says (`tools/check_labels.py` estimates
#        it); where none are, it leaves out the hardest images. With whatever trains on labels:
#        `--strategy fine_tune co_teaching`.
# Paper  Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
#        Labels", NeurIPS 2018, arXiv 1804.06872, where two networks choose for each other.
# Options of SmallLossHook (custom_hooks.SmallLossHook.*)
#        forget_rate  share that is left out in the end, in [0, 1)
#        ramp         fraction of training in which it grows
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='AdaptationClassifier')
custom_hooks = [dict(type='SmallLossHook', forget_rate=0.2, ramp=0.25)]
