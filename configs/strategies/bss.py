# BSS: shrinks the directions of the features that don't transfer.
#
# What   Adds the smallest squared singular value of a batch's feature matrix to the loss.
# When   Fine-tuning on few labels; a partner of what protects the old ability:
#        `--strategy fine_tune l2_sp bss`. Alone it keeps nothing.
# Paper  Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for
#        Safe Transfer Learning", NeurIPS 2019.
# Options of BSSRegularizer (model.regularizers.bss.*)
#        k            how many singular values are shrunk
#        loss_weight  weight of the penalty
#        images       'source' (in a run without adaptation: all), 'target' or 'both'
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    regularizers=dict(bss=dict(type='BSSRegularizer')),
)
