# DANN with the peers' domain classifier, 256-1024-1024-1 with batch norm.
_base_ = 'adapt.py'
model = dict(alignments=dict(dann=dict(type='DANNHead', hidden_channels=[1024, 1024], norm='BN')))
