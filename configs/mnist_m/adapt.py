# Source and target images for any strategy that takes them: --strategy cdan
_base_ = 'source_only.py'
train_cfg = dict(
    _delete_=True, type='AdaptationTrainLoop', max_iters=9000, val_interval=1000,
    target_dataloader=dict(dataset=dict(type='MNISTM', data_root={{_base_.mnist_m_root}}, pipeline={{_base_.target_pipeline}})))
