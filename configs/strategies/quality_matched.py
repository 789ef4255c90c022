# Quality-matched augmentation: training images are degraded until they look as the target's.
#
# What   Measures sharpness, noise, light, contrast, colour and compression of images of both
#        domains, fits kinds and severities of corruptions so that the degraded source has the
#        target's statistics, and trains on images degraded like that. No adversary, no target label.
# When   The target differs by its cameras and not by what is to be seen. Cheap and honest: try it
#        before any alignment, or with one: `--strategy quality_matched dann`.
# Paper  None; corruptions after Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
#        Common Corruptions and Perturbations", ICLR 2019, arXiv 1903.12261.
# Needs  A val_dataloader, whose pipeline makes both comparable, and target images:
#        a domain `target` of a DomainValLoop, the train_cfg.target_dataloader of a strategy that
#        adapts, or custom_hooks.QualityMatchHook.target_dataloader.dataset.data_root=data/target/train
# Options of QualityMatchHook (custom_hooks.QualityMatchHook.*)
#        target_dataloader  what it leaves out is inherited from val_dataloader
#        max_images         of each domain; time grows with it
#        prob               part of the training images that are degraded
#        corruptions        what an earlier fit found (quality_matched.json): nothing is fitted
#        sources            of a SeveralSources, which data sets are degraded: [0], where labelled
#                           target images are the other one
# Note   The work folder gets quality_matched.py, the run's config with what was fitted.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='QualityMatchHook', max_images=48, prob=0.8)]
