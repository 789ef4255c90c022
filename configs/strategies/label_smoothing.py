# Label smoothing: a little of each label belongs to the other classes.
#
# What   Takes the place of the head's cross-entropy: mmpretrain's own loss, whose labels are certain
#        to 1 - label_smooth_val alone.
# When   A few labels are wrong, or the model is too sure of itself. The cheapest of the kind, and
#        the one that resists least: see `robust_loss`.
# Paper  Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
#        arXiv 1512.00567; with wrong labels: Lukasik et al., "Does Label Smoothing Mitigate Label
#        Noise?", ICML 2020, arXiv 2003.02819.
# Options of mmpretrain's LabelSmoothLoss (model.head.loss.*)
#        label_smooth_val  share that is spread over all classes, 0.1 by default here
#        mode              'original' or 'classy_vision'
# Note   Not with `robust_loss`: there set model.head.loss.label_smooth_val.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    head=dict(
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    )
)
