# Early learning: predictions hold at what was learned before the wrong labels were.
#
# What   Networks learn what labels have in common first, and single wrong ones last. Each training
#        image has a moving average of its own predictions, and a regularizer keeps the prediction
#        near it, against a label that comes to contradict it.
# When   Some labels are wrong and nobody corrects them; with whatever trains on labels for several
#        passes over the images: `--strategy fine_tune early_learning`. The averages of all images
#        are in each checkpoint: images times classes.
# Paper  Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS
#        2020, arXiv 2007.00151.
# Options of EarlyLearningRegularizer (model.regularizers.early_learning.*)
#        momentum     of the averages; 0.9 for many classes
#        loss_weight  weight of the regularizer; 7 for many classes
#        images       'source' (in a run without adaptation: all), 'target' or 'both'
# Note   Not with mixup or cutmix, whose images are of no single one.
#        Not with robust_loss: its weight is for cross-entropy, whose gradient is larger. Together
#        they end with one class for all images, so that they are refused.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    regularizers=dict(early_learning=dict(type='EarlyLearningRegularizer')),
)
custom_hooks = [dict(type='ImageMemoryHook')]
