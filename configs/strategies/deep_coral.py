# Deep CORAL: the two domains' features get the same covariance.
#
# What   Adds the squared distance between the covariances of a source and a target batch to the
#        loss, divided by 4 D^2 for D features.
# When   No target labels and a small gap: the mildest and most stable of the alignments. Batches of
#        more than a few images a domain; a single one has no covariance and is skipped.
# Paper  Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
#        workshops, arXiv 1607.01719.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of DeepCORALAlignment (model.alignments.deep_coral.*)
#        loss_weight  the paper chooses it so that this loss and the classification loss end up
#                     about equal; wide features may take 10 or 100
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(deep_coral=dict(type='DeepCORALAlignment')),
)
train_cfg = dict(type='AdaptationTrainLoop')
