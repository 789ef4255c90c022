# CDAN+E: CDAN that aligns the images of certain class first.
#
# What   As cdan, with each image weighted by 1 + exp(-entropy of its prediction): what the
#        classifier can't tell yet counts half.
# When   As cdan, where many target images are hard. Use one of the two.
# Paper  Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, arXiv 1705.10667.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of CDANHead (model.alignments.cdan_e.*)
#        As in cdan.py.
# Options of AdversaryMonitorHook (custom_hooks), which says by name when it goes wrong
#        interval, patience, limits; backoff=0.5 lets it weaken the adversary, None only warns
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(cdan_e=dict(type='CDANHead', entropy_conditioning=True)),
)
train_cfg = dict(type='AdaptationTrainLoop')
custom_hooks = [dict(type='AdversaryMonitorHook')]
