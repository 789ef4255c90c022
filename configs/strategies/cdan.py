# CDAN: DANN whose domain classifier sees features and class predictions together.
#
# What   The domain classifier gets the outer product of an image's features and class
#        probabilities, so that the features lose what tells the domains apart within each class.
# When   No target labels, several classes that DANN would mix up. It needs predictions that are
#        mostly right; where class frequencies differ it can hurt, as DANN.
# Paper  Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, arXiv 1705.10667.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of CDANHead (model.alignments.cdan.*)
#        max_channels     largest outer product (features x classes); a larger one is replaced by
#        random_channels  number of random projections
#        and those of DANNHead: hidden_channels, norm, dropout, loss_weight, reversal_weight, gamma,
#        label_smoothing, spectral_norm, gradient_penalty; see dann.py
# Options of AdversaryMonitorHook (custom_hooks), which says by name when it goes wrong
#        interval, patience, limits; backoff=0.5 lets it weaken the adversary, None only warns
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(cdan=dict(type='CDANHead')),
)
train_cfg = dict(type='AdaptationTrainLoop')
custom_hooks = [dict(type='AdversaryMonitorHook')]
