# DANN with the peers' domain classifier, 256-1024-1024-1 with batch norm.
_base_ = 'source_only.py'
model = dict(alignments=dict(dann=dict(type='DANNHead', hidden_channels=[1024, 1024], norm='BN')))
train_cfg = dict(
    _delete_=True, type='AdaptationTrainLoop', max_iters=400, val_interval=100,
    target_dataloader=dict(dataset={{_base_.target_train}}))
