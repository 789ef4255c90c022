# For a strategy that begins with the last layer alone, on ImageNet features: --strategy self_training
_base_ = 'dann_mcc.py'  # its crops and learning rate
model = dict(neck=None, alignments=dict(_delete_=True))  # a bottleneck would have random weights
