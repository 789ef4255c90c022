# DELTA: feature maps stay near the source model's, whatever the weights do.
#
# What   The model that the run begins with looks at the same images; the squared distance between
#        its feature maps and those of the model that trains, in a few layers, is added to the loss.
# When   Fine-tuning or adapting a pretrained model that must not forget: with `fine_tune`, with any
#        alignment. Costs one forward pass more, without gradient.
#        Give the model its weights: `load_from`, or `init_cfg` / `checkpoint_path` in the backbone.
# Paper  Li et al., "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional
#        Networks", ICLR 2019, arXiv 1901.09229; here all channels are attended alike.
# Options of DELTARegularizer (model.regularizers.delta.*)
#        loss_weight  how strongly feature maps are held
#        layers       depths that are compared, '4:-1' or [2, 5]; None: four, evenly spread
#        relative     True: in units of the source model's maps; False: as published
#        images       'source' (in a run without adaptation: all), 'target' or 'both'
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    regularizers=dict(delta=dict(type='DELTARegularizer')),
)
custom_hooks = [dict(type='SourceModelHook')]
