# Similarity: how alike the model and the source model are, layer by layer, while it trains.
#
# What   Looks at the model before training and at each validation, on the same held-out source and
#        target images: CKA of every layer, cosine of features, predictions that flipped, drift of
#        class centres. Logged as similarity/<domain>/...; at the end similarity.json and a picture
#        of layers over time, similarity.png, lie in the work folder. Changes nothing in training.
# When   To see what an adaptation changes, and where: `--strategy dann similarity`. Costs a forward
#        pass of max_images images a domain, at each validation; the log says how long it takes.
#        Give the model its weights: `load_from`.
# Paper  Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv
#        1905.00414; debiased as in Nguyen et al., ICLR 2021, arXiv 2010.15327.
# Needs  A validation. With a DomainValLoop all its domains are looked at, else val_dataloader:
#        val_cfg = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=...)))
# Options of SimilarityHook (custom_hooks)
#        max_images  of each domain's validation images
#        interval    measure at every `interval`-th validation
#        layers      depths that are compared; None: all, but no more than max_layers
#        batch_size  images in a forward pass
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='SimilarityHook', max_images=256, interval=1)]
