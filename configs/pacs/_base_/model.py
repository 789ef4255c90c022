# EfficientNet-Lite0 with its ImageNet weights (tools/convert_efficientnet_lite0.py), and the peers'
# bottleneck before the head: 1280 -> 256, batch norm, ReLU.
model = dict(
    type='AdaptationClassifier',
    channels_last=True,  # a third faster on a CPU
    backbone=dict(
        type='PooledTimmBackbone', model_name='tf_efficientnet_lite0',
        checkpoint_path='data/weights/tf_efficientnet_lite0.pth'),
    neck=dict(type='BottleneckNeck', out_channels=256),
    head=dict(type='LinearClsHead', num_classes=7, topk=(1,)))
