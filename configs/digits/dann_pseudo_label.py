# DANN, and the model's own confident predictions as labels of strongly augmented target images.
# First: python tools/train.py configs/digits/source_only.py
_base_ = 'dann.py'

model = dict(alignments=dict(pseudo_label=dict(type='PseudoLabelAlignment')))
train_cfg = dict(
    strong_view=[
        dict(
            type='RandAugment',
            policies='timm_increasing',
            num_policies=2,
            total_level=10,
            magnitude_level=9,
            magnitude_std=0.5,
        ),
    ],
)
