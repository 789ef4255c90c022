# ViT-B/16, all weights fine-tuned on a few labelled target images, the shallow ones least.
# Folders: data/target/{labelled,val}/CLASS/*.jpg
_base_ = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'
custom_imports = dict(imports=['tl_plugin'])
imagenet = 'https://download.openmmlab.com/mmclassification/v0/vit/vit-base-p16_pt-32xb128-mae_in1k_20220623-4c544545.pth'
num_classes = 7
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=imagenet, prefix='backbone')),
    head=dict(num_classes=num_classes, hidden_dim=None, topk=(1,)))
data_preprocessor = dict(num_classes=num_classes)

train_set = dict(_delete_=True, type='CustomDataset', data_root='data/target/labelled', pipeline={{_base_.train_dataloader.dataset.pipeline}})
val_set = dict(_delete_=True, type='CustomDataset', data_root='data/target/val', pipeline={{_base_.val_dataloader.dataset.pipeline}})
train_dataloader = dict(dataset=train_set)
val_dataloader, test_dataloader = dict(dataset=val_set), dict(dataset=dict(val_set))
val_evaluator, test_evaluator = dict(topk=(1,)), dict(topk=(1,))

optim_wrapper = dict(
    optimizer=dict(lr=1e-4), constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0, bias_decay_mult=0.0))
train_cfg = dict(max_epochs=20)
param_scheduler = [dict(type='CosineAnnealingLR', eta_min_ratio=0.01, convert_to_iter_based=True)]
