# Feature extraction: the backbone is frozen, only neck and head train.
#
# What   Weights, running statistics and dropout of everything below the head stay as they are;
#        the head learns on features that don't change.
# When   Few labels, or a target close to the source; the cheapest strategy that learns at all.
#        Give the backbone its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Donahue et al., "DeCAF", ICML 2014, arXiv 1310.1531; Kornblith et al., CVPR 2019,
#        arXiv 1805.08974.
# Options of FreezeHook
#        layers    which depths freeze: ':-1' is all but neck and head, '0:4' the four shallowest
#        patterns  or by regex over parameter names: [r'^backbone\.layer[12]\.']
#        norm      'eval': frozen norms use and keep their running statistics; 'train': they adapt
#        dropout   'eval': no dropout in frozen parts, so that features are deterministic
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [
    dict(type='FreezeHook', layers=':-1', norm='eval', dropout='eval'),
    dict(type='LoadReportHook', new_classifier=True),  # for other classes than load_from
]
