# L2-SP: weights stay near those that the run began with.
#
# What   Adds half the squared distance of the backbone's weights from the pretrained ones to the
#        loss; the head's decay to zero. Takes the place of weight decay, which pulls all to zero.
# When   Fine-tuning or adapting a pretrained model that must not forget: with `fine_tune`, with any
#        alignment. Costs no forward pass. Where the head comes trained too, hold it as well:
#        model.regularizers.l2_sp.exclude=[]
#        Give the model its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
#        ICML 2018, arXiv 1802.01483.
# Options of L2SPRegularizer (model.regularizers.l2_sp.*)
#        loss_weight      how strongly weights are held
#        exclude          regular expressions: weights that decay to zero instead (default: the head)
#        excluded_decay   weight of that decay, relative to loss_weight
# Note   Optimizers such as AdamW divide a gradient by its own size, so that a small loss_weight acts
#        more strongly with them than with SGD.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    regularizers=dict(l2_sp=dict(type='L2SPRegularizer')),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.0))
custom_hooks = [dict(type='SourceModelHook')]
