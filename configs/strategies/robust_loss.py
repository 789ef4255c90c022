# Robust loss: labels that the model finds improbable count less.
#
# What   Takes the place of the head's cross-entropy: the generalized one, between cross-entropy and
#        mean absolute error, or the symmetric one, which adds the cross-entropy the other way round.
# When   Some labels are wrong (`tools/check_labels.py` estimates how many) and nobody corrects them.
#        With whatever trains on labels: `--strategy fine_tune robust_loss`, `--strategy dann
#        robust_loss`. It learns more slowly than cross-entropy: train a little longer.
# Paper  Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with
#        Noisy Labels", NeurIPS 2018, arXiv 1805.07836; Wang et al., "Symmetric Cross Entropy for
#        Robust Learning with Noisy Labels", ICCV 2019, arXiv 1908.06322.
# Options of RobustLoss (model.head.loss.*)
#        kind              'generalized' or 'symmetric'
#        q                 of the generalized one, in (0, 1]: 1 resists most and learns slowest
#        alpha, beta       of the symmetric one: weights of both directions; alpha=6 beta=0.1 for
#                          many classes
#        label_smooth_val  smooths the labels as well
#        class_weight      one factor per class
# Note   Of the config's own loss nothing is left, its class weights neither.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    head=dict(loss=dict(_delete_=True, type='RobustLoss', kind='generalized', q=0.7)),
)
