# JAN: DAN for the joint distribution of features and class predictions.
#
# What   Adds the maximum mean discrepancy under the product of two kernels, one on the features and
#        one on the class probabilities.
# When   As dan, where the classes' positions differ more than the features as a whole.
# Paper  Long et al., "Deep Transfer Learning with Joint Adaptation Networks", ICML 2017,
#        arXiv 1605.06636.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of JANAlignment (model.alignments.jan.*)
#        bandwidths            of the features' kernels, in units of the mean squared distance
#        prediction_bandwidth  of the probabilities' kernel, a squared distance
#        unbiased              False also counts each image's pair with itself
#        loss_weight           5 is the weight in code that adds five kernels up
#        gamma                 steepness of the loss's rise over training, see dan.py; None: constant
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(jan=dict(type='JANAlignment', loss_weight=5.0, gamma=10.0)),
)
train_cfg = dict(type='AdaptationTrainLoop')
