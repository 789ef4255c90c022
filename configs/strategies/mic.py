# Masked image consistency: predicts a target image from a part of it, as a teacher does from the whole.
#
# What   A teacher, whose weights follow the model's slowly, labels each target image. The model has
#        to give that label to the image with most of it masked, so that it learns to use context.
#        The surer the teacher, the more an image counts.
# When   No target labels. Put it on top of what aligns the domains: `--strategy mcc mic`. By itself it
#        strengthens what the model believes already. It costs two forwards of the target images.
# Paper  Hoyer et al., "MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation", CVPR
#        2023, arXiv 2212.01322.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of MaskedConsistency (model.alignments.mic.*)
#        ratio             probability that a patch is masked
#        patches           along the shorter side of an image, of any size
#        teacher_momentum  how slowly the teacher follows, in [0, 1); None: as that of mean_teacher or
#                          self_training, where they are, or else 0.9
#        loss_weight       weight of the loss
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='AdaptationClassifier', alignments=dict(mic=dict(type='MaskedConsistency')))
train_cfg = dict(type='AdaptationTrainLoop')
