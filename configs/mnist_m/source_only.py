# The paper's network on MNIST alone.
_base_ = ['_base_/data.py', '_base_/model.py', '_base_/schedule.py']
custom_imports = dict(imports=['tl_plugin'])
