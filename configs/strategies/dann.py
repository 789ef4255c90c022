# DANN: features that classify the source and don't reveal the domain.
#
# What   Each step sees one batch of labelled source and one of unlabelled target images. A domain
#        classifier learns to tell them apart; its gradient reaches the features reversed.
# When   No target labels, many target images, classes about as frequent in both domains. It can
#        hurt where class frequencies differ.
# Paper  Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, arXiv 1505.07818.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
#        With `with_label=False` a CustomDataset takes a folder without class folders.
# Options of DANNHead (model.alignments.dann.*)
#        hidden_channels  widths of the domain classifier's hidden layers
#        norm             'BN' or None, between its layers
#        dropout          probability after each hidden layer
#        loss_weight      weight of the domain loss
#        reversal_weight  final gradient-reversal weight; gamma: how fast it rises (None: constant)
#        label_smoothing  of the domain labels
#        spectral_norm    True bounds the domain classifier's slope layer by layer
#        gradient_penalty weight of its squared slope at the features; not together with norm='BN'
#        num_sources      number of sources, which are then classified one by one
# Options of AdaptationClassifier (model.*)
#        domain_specific_bn  True normalises each domain by its own batch, False both by one
#        norm_eval  True keeps the backbone's running statistics; no cure for an adversary that swings:
#                   tried with MCC, both domains fell (configs/pacs/README.md)
# Options of AdversaryMonitorHook (custom_hooks), which says by name when it goes wrong
#        interval, patience, limits; backoff=0.5 lets it weaken the adversary, None only warns
# Several sources    train_dataloader.dataset=dict(type='SeveralSources', datasets=[...])
# Few target labels  data_preprocessor.labelled_target=few.txt lists, a path a line, the target images
#        that keep their labels; they count like source images in the classification loss. Or have
#        them seen more often: SeveralSources of the source and them, with least_ratio=0.33
# Note   `--strategy dann bottleneck dann_schedule label_shift_guard` adds a narrow layer to align on,
#        the paper's schedules, and watches over class frequencies.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(dann=dict(type='DANNHead')),
)
train_cfg = dict(type='AdaptationTrainLoop')
custom_hooks = [dict(type='AdversaryMonitorHook')]
