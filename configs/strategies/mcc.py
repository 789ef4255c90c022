# MCC: target predictions that don't confuse classes.
#
# What   Adds the share of each class's predictions that falls on other classes, in a target batch,
#        to the loss; certain predictions count more.
# When   No target labels; also where class frequencies differ, since it aligns nothing. A good
#        partner of others: `--strategy dann mcc`. Batches with a few images of each class.
# Paper  Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020,
#        arXiv 1912.03699.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of MCCAlignment (model.alignments.mcc.*)
#        temperature  divides the logits; larger ones look at less likely classes, too
#        loss_weight  weight of the class confusion
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(mcc=dict(type='MCCAlignment')),
)
train_cfg = dict(type='AdaptationTrainLoop')
