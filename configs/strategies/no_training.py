# No training: one validation and one checkpoint of what hooks make of a model.
#
# What   Takes the place of the training loop: one epoch without iterations. The run starts, writes
#        its checkpoint and is validated as any other. With `adabn` the model gets the batch
#        statistics of the target, and nothing else: `--strategy adabn no_training`.
# When   To compare a method that doesn't train with those that do.
#        Give the model its weights: `load_from`.
# Paper  None.
# Options None.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

train_cfg = dict(_delete_=True, type='NoTrainingLoop')
param_scheduler = None
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1))
