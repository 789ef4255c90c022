# A timm backbone adapted to unlabelled target images by DANN; its head finds its width by itself.
# Folders: data/source/{train,val}/CLASS/*.jpg, data/target/train/*.jpg, data/target/val/CLASS/*.jpg
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['tl_plugin'])
num_classes = 7
model = dict(
    _delete_=True, type='AdaptationClassifier', alignments=dict(dann=dict(type='DANNHead')),
    backbone=dict(type='PooledTimmBackbone', model_name='tf_efficientnet_lite0', pretrained=True),
    head=dict(type='LinearClsHead', num_classes=num_classes, topk=(1,)))
data_preprocessor = dict(num_classes=num_classes, mean=[127.5] * 3, std=[127.5] * 3)

train_set = dict(_delete_=True, type='CustomDataset', data_root='data/source/train', pipeline={{_base_.train_dataloader.dataset.pipeline}})
val_set = dict(_delete_=True, type='CustomDataset', data_root='data/source/val', pipeline={{_base_.val_dataloader.dataset.pipeline}})
train_dataloader = dict(dataset=train_set)
val_dataloader, test_dataloader = dict(dataset=val_set), dict(dataset=dict(val_set))
target = dict(target=dict(dataset=dict(data_root='data/target/val')))
val_cfg, test_cfg = dict(type='DomainValLoop', dataloaders=target), dict(type='DomainTestLoop', dataloaders=target)
val_evaluator, test_evaluator = dict(topk=(1,)), dict(topk=(1,))
train_cfg = dict(_delete_=True, type='AdaptationTrainLoop', max_epochs=20, target_dataloader=dict(dataset=dict(data_root='data/target/train', with_label=False)))
param_scheduler = dict(milestones=[10, 15])
optim_wrapper = dict(optimizer=dict(lr=0.01))
