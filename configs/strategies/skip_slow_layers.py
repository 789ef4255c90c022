# Skip slow layers: what would train at a hundredth of the largest rate is frozen.
#
# What   Layer-wise rates leave the shallow layers of deep networks at rates at which they hardly
#        move. Frozen, they cost no gradient, and below the first trained layer no backward pass.
# When   With `fine_tune` or `auto_rgn`, where a training step is too slow: `--strategy fine_tune
#        skip_slow_layers`.
# Paper  None; timm's option layer_decay_no_opt_scale does the same.
# Options of SlowLayersFreezeHook (custom_hooks.SlowLayersFreezeHook.*)
#        min_rate  share of the largest learning rate below which a layer freezes
#        norm      'eval' also fixes the running statistics there
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='SlowLayersFreezeHook')]
