# Source only: the "do nothing" row of every comparison.
#
# What   Trains (tools/train.py) or evaluates (tools/test.py) the config as it is, on the source
#        alone. The target is seen by nothing but the evaluation.
# When   Always, first: what any other strategy gains or loses is measured against this one.
# Paper  None.
# Options None. To measure on the target too, see `DomainValLoop` and `DomainTestLoop`:
#        test_cfg = dict(type='DomainTestLoop', dataloaders=dict(target=dict(dataset=...)))
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='LoadReportHook', new_classifier=True)]  # for other classes than load_from
