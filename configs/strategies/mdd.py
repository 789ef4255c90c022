# MDD: features on which no second classifier can agree on the source and disagree on the target.
#
# What   A second classifier learns to predict what the head does on the source and something else
#        on the target; its gradient reaches the features reversed.
# When   No target labels, many classes; an alignment that knows the classes' margins. It is slower
#        to take effect than dann: give it time.
# Paper  Zhang et al., "Bridging Theory and Algorithm for Domain Adaptation", ICML 2019,
#        arXiv 1904.05801.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of MDDHead (model.alignments.mdd.*)
#        margin           weight of the source in the second classifier's loss
#        hidden_channels  widths of its hidden layers; norm, dropout: in between
#        loss_weight      weight of the loss
#        reversal_weight  final gradient-reversal weight; gamma: how fast it rises (None: constant)
# Options of AdversaryMonitorHook (custom_hooks), which says by name when it goes wrong
#        interval, patience, limits; backoff=0.5 lets it weaken the adversary, None only warns
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(mdd=dict(type='MDDHead')),
)
train_cfg = dict(type='AdaptationTrainLoop')
custom_hooks = [dict(type='AdversaryMonitorHook')]
