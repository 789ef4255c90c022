# Frozen alignment: the last layer alone adapts to unlabelled target images, without training.
#
# What   All images of both domains go through the frozen network once. On their features,
#        standardized per domain, a logistic regression learns the source's labels, then the target's
#        class-balanced pseudo-labels, the surest first. Folded into the head's linear layer, with
#        the target's mean and deviation, it gives an ordinary checkpoint for target images.
# When   First of all, beside adabn: minutes for thousands of images on a CPU, and nothing can
#        diverge. Good general features (ImageNet weights) help it more than features that
#        were fine-tuned on the source. It can lose accuracy on the source, as adabn.
#        Give the backbone its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced
#        Self-Training", ECCV 2018, arXiv 1810.07911 (the rounds); Liao et al., "PACE", arXiv
#        2205.13508 (linear classifiers on frozen features).
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        --cfg-options train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of FrozenAlignmentLoop (train_cfg.*)
#        shares           of each predicted class that a round learns from; [] for no round
#        inverse_penalty  C of the logistic regression
#        neighbours       of an image, to which labels spread after the rounds. 0 by default, since it
#                         costs the source. 10 gains 2.8 points on the target and costs 0.9 on the
#                         source on six pairs of PACS, and loses on both on digits, which the features
#                         don't suit, and on MNIST with unequal classes (tools/benchmarks/README.md)
#        mirror           False reads each image once and not mirrored, too
# Note   A neck with weights that nobody trained is refused: model.neck=None, or load_from.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

train_cfg = dict(_delete_=True, type='FrozenAlignmentLoop')
param_scheduler = None
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1))
