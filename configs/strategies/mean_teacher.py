# Mean teacher: pseudo-labels by a slow average of the model.
#
# What   As pseudo_label, but the predictions on the first view are those of a teacher whose weights
#        follow the model's slowly: steadier labels, less of the model's own last mistakes.
# When   As pseudo_label, which may come with it. It costs another forward of the target images.
# Paper  Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017,
#        arXiv 1703.01780; the rest see pseudo_label.py.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of PseudoLabelAlignment (model.alignments.pseudo_label.*)
#        teacher_momentum  how slowly it follows, in [0, 1); None: no teacher
#        threshold, relative, ramp, loss_weight, and train_cfg.strong_view: see pseudo_label.py
_base_ = 'pseudo_label.py'

model = dict(alignments=dict(pseudo_label=dict(teacher_momentum=0.99)))
