# Source and target images for any strategy that takes them: --strategy mcc
_base_ = 'source_only.py'
train_cfg = dict(
    _delete_=True, type='AdaptationTrainLoop', max_iters=400, val_interval=100,
    target_dataloader=dict(dataset={{_base_.target_train}}))
