# The paper's DANN: domain classifier 768-100-1, coefficient 2 / (1 + exp(-10 p)) - 1.
_base_ = 'source_only.py'
model = dict(alignments=dict(dann=dict(type='DANNHead', hidden_channels=[100])))
train_cfg = dict(
    _delete_=True, type='AdaptationTrainLoop', max_iters=9000, val_interval=1000,
    target_dataloader=dict(dataset=dict(type='MNISTM', data_root={{_base_.mnist_m_root}}, pipeline={{_base_.target_pipeline}})))
