# Clean digits alone: what any adaptation is measured against.
_base_ = [
    '_base_/model.py',
    '_base_/data.py',
    '_base_/schedule.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)
custom_hooks = [dict(type='LoadReportHook', new_classifier=True)]
# Two are kept: a file cut off while it was written leaves the one before it.
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=2))
randomness = dict(seed=0)
