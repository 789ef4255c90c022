# Pseudo-labels: the model's confident predictions on target images teach it strong views of them.
#
# What   Each target image comes in two views, one as the pipeline gives it, one strongly augmented.
#        Where the prediction on the first is confident, the second learns it as its label.
# When   No target labels, and a source model that is right on part of the target; the strongest
#        single method where augmentation resembles the shift. A partner of `dann`, which gets it
#        started: `--strategy dann pseudo_label`. It can make errors worse where the model is
#        confidently wrong.
# Paper  Sohn et al., "FixMatch", NeurIPS 2020, arXiv 2001.07685; relative threshold and ramp:
#        Berthelot et al., "AdaMatch", ICLR 2022, arXiv 2106.04732; augmentation: Cubuk et al.,
#        "RandAugment", NeurIPS 2020, arXiv 1909.13719.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of PseudoLabelAlignment (model.alignments.pseudo_label.*)
#        threshold    least confidence that counts
#        relative     whether it is relative to the confidence on the source
#        ramp         whether the loss fades in over the first half of training
#        loss_weight  weight of the loss
#        of the strong view (train_cfg.strong_view): any list of transforms
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(pseudo_label=dict(type='PseudoLabelAlignment')),
)
train_cfg = dict(
    type='AdaptationTrainLoop',
    strong_view=[
        dict(
            type='RandAugment',
            policies='timm_increasing',
            num_policies=2,
            total_level=10,
            magnitude_level=9,
            magnitude_std=0.5,
        ),
    ],
)
