# DAN: the two domains' features get the same mean in the space of several Gaussian kernels.
#
# What   Adds the multi-kernel maximum mean discrepancy between the features of a source and a
#        target batch to the loss. No adversary to balance.
# When   No target labels, classes about as frequent in both domains, batches of 16 images or more
#        a domain: it is an estimate from one batch.
# Paper  Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015,
#        arXiv 1502.02791.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of DANAlignment (model.alignments.dan.*)
#        bandwidths   of the kernels, in units of the mean squared distance between two images
#        unbiased     False also counts each image's pair with itself
#        loss_weight  5 is the weight in code that adds five kernels up; here their mean counts
#        gamma        steepness of the loss's rise over training, by the schedule of DANN's paper;
#                     None: constant from the start, which can pull the features of an untrained
#                     network into one point
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(dan=dict(type='DANAlignment', loss_weight=5.0, gamma=10.0)),
)
train_cfg = dict(type='AdaptationTrainLoop')
