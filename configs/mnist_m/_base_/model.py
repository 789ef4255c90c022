# The paper's network (Ganin et al., JMLR 2016, figure 4a): the domain classifier reads the 768
# convolutional features, beside the label predictor's two hidden layers, not behind them.
model = dict(
    type='AdaptationClassifier',
    backbone=dict(type='DANNDigitsBackbone'),
    head=dict(type='StackedLinearClsHead', num_classes=10, mid_channels=[100, 100], topk=(1,)),
    feature_stage='neck')
