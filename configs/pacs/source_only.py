# Fine-tuned on the source alone: the row that every strategy is measured against.
_base_ = ['_base_/data.py', '_base_/model.py', '_base_/schedule.py']
custom_imports = dict(imports=['tl_plugin'])
