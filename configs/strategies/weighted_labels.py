# Weighted labels: images count as much as their labels are probably right.
#
# What   Weighs each labelled image in the classification loss by the probability that its label is
#        right, which `tools/check_labels.py` found. An image that its table hasn't counts in full.
# When   Some labels are wrong, and nobody has the time to correct them. With whatever trains on
#        labels: `--strategy fine_tune weighted_labels`. Where somebody has: `--labels labels.csv`.
# Paper  Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021,
#        arXiv 1911.00068, for the judgement out of fold; weights by it as in Liu and Tao,
#        "Classification with Noisy Labels by Importance Reweighting", TPAMI 2016, arXiv 1411.7718.
# Needs  The table: custom_hooks.LabelWeightsHook.file=work_dirs/check_labels/labels.csv
# Options of LabelWeightsHook (custom_hooks.LabelWeightsHook.*)
#        file  the table
# Note   Not with mixup or cutmix, whose images are of no single one.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='AdaptationClassifier')
custom_hooks = [dict(type='LabelWeightsHook')]
