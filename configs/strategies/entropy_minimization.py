# Entropy minimisation: certain target predictions.
#
# What   Adds the mean entropy of the target's predictions to the loss, so that the boundaries
#        between classes move out of dense regions of the target.
# When   As a partner of an alignment (`--strategy dann entropy_minimization`), or where the source
#        model is mostly right on the target. Alone it confirms its own mistakes.
# Paper  Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of EntropyMinimization (model.alignments.entropy_minimization.*)
#        loss_weight  0.1 by default
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(entropy_minimization=dict(type='EntropyMinimization')),
)
train_cfg = dict(type='AdaptationTrainLoop')
