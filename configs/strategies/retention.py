# Retention: a budget of source accuracy; beyond it training ends, at the last model inside it.
#
# What   Measures the source model before training. Each validation logs how many points of source
#        accuracy are lost (retention/forgetting) and how often the model still predicts what the
#        source model did (retention/agreement). Where it stays beyond the budget, training ends and
#        the model gets back the weights of the last validation inside it: inside_budget.pth in the
#        work folder.
# When   Together with whatever trains: `--strategy fine_tune retention`, `--strategy dann retention`.
#        Validate often enough: between two validations nobody looks.
#        Give the model its weights: `load_from`.
# Paper  None; forgetting as in Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV
#        2018, arXiv 1801.10112.
# Needs  Source images in the validation: val_dataloader, beside a target in a DomainValLoop:
#        val_cfg = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=...)))
# Options of RetentionHook (custom_hooks)
#        budget    points of the metric that may be lost
#        metric    of the source, without its domain: accuracy/top1
#        action    'roll_back', 'stop' (the model stays as it is) or 'log'
#        patience  validations in a row that may be beyond the budget
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='RetentionHook', budget=1.0, action='roll_back', patience=2)]
