# BSP: keeps an adversarial alignment from squeezing the features into few directions.
#
# What   Adds the largest squared singular value of each domain's feature matrix to the loss.
# When   Together with an adversary: `--strategy dann bsp`, `--strategy cdan bsp`. Alone it aligns
#        nothing.
# Paper  Chen et al., "Transferability vs. Discriminability: Batch Spectral Penalization for
#        Adversarial Domain Adaptation", ICML 2019.
# Needs  The target images; what isn't set here is inherited from train_dataloader:
#        train_cfg.target_dataloader.dataset.data_root=data/target/train
# Options of BSPAlignment (model.alignments.bsp.*)
#        k            how many singular values are penalised
#        loss_weight  1e-4 by default, for 36 images a domain; the penalty grows with the batch
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(
    type='AdaptationClassifier',
    alignments=dict(bsp=dict(type='BSPAlignment')),
)
train_cfg = dict(type='AdaptationTrainLoop')
