# LwF: predictions stay near the source model's; learning without forgetting.
#
# What   The model that the run begins with looks at the same images; its softened predictions are
#        taught beside the labels.
# When   Fine-tuning or adapting a model whose head is trained as well, on the same classes; a new
#        head has nothing to remember. With `fine_tune`, with any alignment. Costs one forward pass
#        more, without gradient.
#        Give the model its weights: `load_from`.
# Paper  Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282.
# Options of LwFRegularizer (model.regularizers.lwf.*)
#        loss_weight  weight of what the source model says, against 1 of the labels
#        temperature  softens predictions; larger ones teach less likely classes, too
#        images       'source' (in a run without adaptation: all), 'target' or 'both'
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    regularizers=dict(lwf=dict(type='LwFRegularizer')),
)
custom_hooks = [dict(type='SourceModelHook')]
