# Bottleneck: a narrow layer between backbone and head, on which domains are aligned.
#
# What   The backbone's output is pooled and goes through Linear-256, BatchNorm and ReLU before the
#        head. It takes the place of the config's neck.
# When   With an alignment (`--strategy dann bottleneck`), on pretrained backbones with wide features.
# Paper  Donahue et al., "DeCAF", ICML 2014, arXiv 1310.1531, for such adaptation layers in general;
#        TLlib's DANN, CDAN and MCC, and SHOT (arXiv 2002.08546), have this one.
# Options of BottleneckNeck (model.neck.*)
#        out_channels  width of the layer
#        norm          False leaves out the BatchNorm
# Note   The head must take one vector an image and find its width by itself (in_channels=None), as
#        LinearClsHead and VisionTransformerClsHead do.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    neck=dict(_delete_=True, type='BottleneckNeck', out_channels=256),
    head=dict(in_channels=None),
)
