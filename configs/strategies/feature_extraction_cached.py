# Feature extraction from a cache: the frozen backbone runs once, and not in every epoch.
#
# What   As feature_extraction, but the output of the frozen backbone (and of a neck without weights)
#        for each training image is computed once and kept on the disk, mapped into memory; neck and
#        head train on that. The same optimizer, schedulers, hooks, metrics; checkpoints hold the
#        whole model.
# When   Wherever feature_extraction fits, and more than one epoch is trained. All of the backbone has
#        to be frozen.
#        Give the backbone its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Donahue et al., "DeCAF", ICML 2014, arXiv 1310.1531; Kornblith et al., CVPR 2019,
#        arXiv 1805.08974.
# Options of CachedFeatureTrainLoop (train_cfg.*)
#        views          each image goes through the training pipeline so many times, and epochs take
#                       the views in turn; one view of an augmenting pipeline is always the same
#        cache_dir      folder of the caches, by default in the work folder; several runs may share it
#        feature_dtype  'float16' halves the file
# Note   A cache is used again if weights, pipeline, data, preprocessing and precision are the same.
#        Mixup and cutmix mix images, and are left out. On a CPU a small head trains on one thread.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

train_cfg = dict(type='CachedFeatureTrainLoop')
custom_hooks = [
    dict(type='FreezeHook', layers=':-1', norm='eval', dropout='eval'),
    dict(type='LoadReportHook', new_classifier=True),  # for other classes than load_from
]
