# Self-training that begins with frozen alignment: its surest labels first, then a mean teacher's.
#
# What   Before training, the last layer is fitted to source and target features of the frozen network,
#        as frozen_alignment does, and stays as it is. Then the layers below it learn: source labels
#        in a strong view, which changes colours and textures and keeps shapes; the surest target
#        images of each predicted class, in a weak and a strong view; and, as training goes on, the
#        predictions of a slow average of the model, as far as it is confident.
#        Predictions are certain one by one and diverse together (information maximization). Batch
#        norms of the backbone keep their running statistics.
# When   No target labels, and general features (ImageNet weights); where a source model is wrong on
#        most of the target and pseudo_label or mean_teacher have nothing right to begin with.
#        Where frozen_alignment, with which it begins, is right on nearly all of the target already
#        (PACS art to photo), it can end a little below it, and keeps more of the source.
#        Give the backbone its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
#        Where all it has is a source model that is often wrong, `model.norm_eval=False`: with fixed
#        batch statistics it can end at one class for all. The ladder's rung sets that itself.
# Paper  Lee, "Pseudo-Label", ICML workshop 2013; Zou et al., "Unsupervised Domain Adaptation for
#        Semantic Segmentation via Class-Balanced Self-Training", ECCV 2018, arXiv 1810.07911;
#        Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv
#        1703.01780; Liang et al., "SHOT", ICML 2020, arXiv 2002.08546 (fixed last layer); Xu et
#        al., "Random Convolutions", ICLR 2021, arXiv 2007.13003 (strong view).
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of FrozenAlignmentHook (custom_hooks.FrozenAlignmentHook.*)
#        share             of the images of each predicted class that get a label at first
#        shares, inverse_penalty, neighbours, mirror  see frozen_alignment.py
#        of SelfTrainingAlignment (model.alignments.self_training.*)
#        teacher_momentum  how slowly the teacher follows, in [0, 1)
#        loss_weight       weight of the loss
#        of InformationMaximization (model.alignments.information_maximization.*)
#        diversity_weight  less than 1 where the target's classes are unequal
#        of the strong view (train_cfg.strong_view): any list of transforms;
#        train_cfg.strong_source=False keeps the source's images as train_dataloader gives them;
#        optim_wrapper.clip_grad.max_norm  of the gradient
#        of WarmupHook (custom_hooks.WarmupHook.*)
#        share             of training in which the learning rate grows
# Note   A neck with weights that nobody trained is refused: model.neck=None, or load_from.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    norm_eval=True,
    alignments=dict(
        self_training=dict(type='SelfTrainingAlignment'),
        information_maximization=dict(type='InformationMaximization', loss_weight=0.5),
    ),
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
        dict(type='RandomConvolution'),
    ],
    strong_source=True,
)
# The last layer is fitted to images as they are, and the first steps are on images that changed a
# lot: without a limit and a warm-up, they took the network to one class for all.
optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
custom_hooks = [
    dict(type='FrozenAlignmentHook'),
    dict(type='FreezeHook', patterns=[r'^head\.']),
    dict(type='WarmupHook'),
]
