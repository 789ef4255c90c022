# Interpolation (WiSE-FT): weights between the source model and an adapted one. No training.
#
# What   Mixes the weights of `load_from`, the source model, with those of `train_cfg.adapted` in
#        steps, with batch statistics that are mixed as well and with some recomputed, validates on
#        both domains, and keeps the best on the target that loses no more than a budget on the
#        source. The work folder gets that model as an ordinary checkpoint, and the curve:
#        interpolation.json, interpolation.png. With several adapted models it is a greedy soup: the
#        mean of those that make it better, one after the other, the best first; soup.json.
# When   Fine-tuning or adaptation that started from the source model has forgotten too much of it.
#        Costs one or two evaluations a step. tools/interpolate.py does the same beside a run.
# Paper  Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv 2109.01903;
#        Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482.
# Needs  load_from and train_cfg.adapted, two checkpoints of this config's network; a DomainValLoop.
# Options of InterpolationLoop (train_cfg)
#        adapted            checkpoint of the fine-tuned or adapted model, or a list of several that
#                           started from the source model
#        target_dataloader  target images for batch statistics, beside those of train_dataloader;
#                           what it leaves out is inherited from there
#        alphas             weights of the one adapted model; None: 0, 0.1, ... 1
#        rule, budget       'budget': the best on the target that loses at most so many points on the
#                           source; 'mean': the best mean of both
#        statistics         recomputed from ['source'], ['target'] or both; None: what the config has;
#                           []: only those interpolated like weights, which are tried in any case
#        statistics_images  of each domain
#        metric             of the validation, without the domain
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

train_cfg = dict(_delete_=True, type='InterpolationLoop')
param_scheduler = None
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1))
