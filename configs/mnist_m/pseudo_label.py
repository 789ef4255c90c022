# Ablation of dann_pseudo_label.py: without DANN.
_base_ = 'dann_pseudo_label.py'
model = dict(alignments=dict(dann=None))
