# The paper's DANN: domain classifier 768-100-1, reversal weight 2 / (1 + exp(-10 p)) - 1.
_base_ = 'adapt.py'
model = dict(alignments=dict(dann=dict(type='DANNHead', hidden_channels=[100])))
