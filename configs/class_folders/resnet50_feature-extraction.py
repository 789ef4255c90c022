# ResNet-50, frozen below its head, which learns from a few labelled target images.
# Folders: data/target/{labelled,val}/CLASS/*.jpg. Starts from the source model.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['tl_plugin'])
load_from = 'work_dirs/resnet50_source-only/epoch_20.pth'
num_classes = 7
model = dict(head=dict(num_classes=num_classes, topk=(1,)))
data_preprocessor = dict(num_classes=num_classes)

custom_hooks = [dict(type='FreezeHook', layers=':-1', norm='eval', dropout='eval')]

train_set = dict(_delete_=True, type='CustomDataset', data_root='data/target/labelled', pipeline={{_base_.train_dataloader.dataset.pipeline}})
val_set = dict(_delete_=True, type='CustomDataset', data_root='data/target/val', pipeline={{_base_.val_dataloader.dataset.pipeline}})
train_dataloader = dict(dataset=train_set)
val_dataloader, test_dataloader = dict(dataset=val_set), dict(dataset=dict(val_set))
val_evaluator, test_evaluator = dict(topk=(1,)), dict(topk=(1,))

train_cfg = dict(max_epochs=20)
param_scheduler = dict(milestones=[10, 15])
optim_wrapper = dict(optimizer=dict(lr=0.01))
