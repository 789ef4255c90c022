# Ablation of dann_pseudo_label.py: the usual augmentations, which invert colours too.
_base_ = 'dann_pseudo_label.py'
train_cfg = dict(
    strong_view=[
        dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=9,
             magnitude_std=0.5),
        dict(type='Cutout', shape=8, pad_val=128),
    ])
