# AdaMatch: pseudo-labels whose classes are as frequent as the source's, and one network for both.
#
# What   As pseudo_label, and further: predictions on the target are brought to the class frequencies
#        of those on the source before they are compared with the threshold, and serve as soft
#        labels; the source learns scores at random between those that batch norms give it beside
#        the target and alone.
# When   As pseudo_label, with classes about as frequent in both domains.
# Paper  Berthelot et al., "AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain
#        Adaptation", ICLR 2022, arXiv 2106.04732.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of PseudoLabelAlignment (model.alignments.pseudo_label.*)
#        distribution_alignment  False where class frequencies differ
#        soft_labels             False: the predicted class is the label
#        logit_interpolation     False saves a pass over the source images
#        class_balanced          True: each predicted class counts alike
#        threshold, relative, ramp, loss_weight, and train_cfg.strong_view: see pseudo_label.py
# Note   In the paper the source comes in a strong view, too; here as train_dataloader augments it,
#        or in the strong one instead: train_cfg.strong_source=True.
#        On the digits 2 points above pseudo_label (mean of 3 seeds): tools/benchmarks/overlays.py.
_base_ = 'pseudo_label.py'

model = dict(
    alignments=dict(
        pseudo_label=dict(distribution_alignment=True, soft_labels=True, logit_interpolation=True)
    )
)
