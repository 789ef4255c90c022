# Information maximisation: target predictions that are certain one by one and diverse together.
#
# What   Adds the mean entropy of the target's predictions minus the entropy of their mean, as in
#        SHOT: no class may swallow the others.
# When   A source model that is mostly right on the target, classes about equally frequent there.
#        SHOT keeps the head fixed: FreezeHook with patterns=[r'^head\.'] does that.
# Paper  Liang et al., "Do We Really Need to Access the Source Data? Source Hypothesis Transfer for
#        Unsupervised Domain Adaptation" (SHOT), ICML 2020, arXiv 2002.08546.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of InformationMaximization (model.alignments.information_maximization.*)
#        diversity_weight  of the second part; less than 1 where the target's classes are unequal
#        loss_weight       weight of the loss
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(information_maximization=dict(type='InformationMaximization')),
)
train_cfg = dict(type='AdaptationTrainLoop')
