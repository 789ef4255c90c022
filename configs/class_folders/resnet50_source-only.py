# ResNet-50 trained on the source alone: the row that every strategy is measured against.
# Folders: data/source/{train,val}/CLASS/*.jpg and data/target/val/CLASS/*.jpg
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['tl_plugin'])
imagenet = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth'
num_classes = 7
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=imagenet, prefix='backbone')),
    head=dict(num_classes=num_classes, topk=(1,)))
data_preprocessor = dict(num_classes=num_classes)

train_set = dict(_delete_=True, type='CustomDataset', data_root='data/source/train', pipeline={{_base_.train_dataloader.dataset.pipeline}})
val_set = dict(_delete_=True, type='CustomDataset', data_root='data/source/val', pipeline={{_base_.val_dataloader.dataset.pipeline}})
target_set = dict(data_root='data/target/val')
train_dataloader = dict(dataset=train_set)
val_dataloader, test_dataloader = dict(dataset=val_set), dict(dataset=dict(val_set))
val_cfg = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=target_set)))
test_cfg = dict(type='DomainTestLoop', dataloaders=dict(target=dict(dataset=target_set)))
val_evaluator, test_evaluator = dict(topk=(1,)), dict(topk=(1,))

train_cfg = dict(max_epochs=20)
param_scheduler = dict(milestones=[10, 15])
optim_wrapper = dict(optimizer=dict(lr=0.01))
