# Swin-T adapted to unlabelled target images by DANN.
# Folders: data/source/{train,val}/CLASS/*.jpg, data/target/train/*.jpg, data/target/val/CLASS/*.jpg
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
custom_imports = dict(imports=['tl_plugin'])
imagenet = 'https://download.openmmlab.com/mmclassification/v0/swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'
num_classes = 7
model = dict(
    type='AdaptationClassifier', alignments=dict(dann=dict(type='DANNHead')),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=imagenet, prefix='backbone')),
    head=dict(num_classes=num_classes))
data_preprocessor = dict(num_classes=num_classes)

train_set = dict(_delete_=True, type='CustomDataset', data_root='data/source/train', pipeline={{_base_.train_dataloader.dataset.pipeline}})
val_set = dict(_delete_=True, type='CustomDataset', data_root='data/source/val', pipeline={{_base_.val_dataloader.dataset.pipeline}})
train_dataloader = dict(dataset=train_set)
val_dataloader, test_dataloader = dict(dataset=val_set), dict(dataset=dict(val_set))
target = dict(target=dict(dataset=dict(data_root='data/target/val')))
val_cfg, test_cfg = dict(type='DomainValLoop', dataloaders=target), dict(type='DomainTestLoop', dataloaders=target)
val_evaluator, test_evaluator = dict(topk=(1,)), dict(topk=(1,))
train_cfg = dict(_delete_=True, type='AdaptationTrainLoop', max_epochs=20, target_dataloader=dict(dataset=dict(data_root='data/target/train', with_label=False)))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min_ratio=0.01, convert_to_iter_based=True)]
