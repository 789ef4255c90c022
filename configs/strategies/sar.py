# SAR: test-time adaptation that learns from certain images alone, and goes back before it collapses.
#
# What   As tent, with a sharpness-aware step on images of low entropy, batch statistics that the
#        source's stand beside, and a reset where the entropy falls too low. The first batch (of
#        small batches, those of two windows), and all while the last images are of few classes or in
#        an order by class, the source model predicts.
# When   As tent, in streams that nobody has shuffled, or with small batches.
# Paper  Niu et al., "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023, arXiv
#        2302.12400; Schneider et al., NeurIPS 2020, arXiv 2006.16971 (the source's statistics).
# Options of TestTimeClassifier (model.test_time.*)
#        lr, momentum, margin, rho  of the step
#        prior                   images that the source's batch statistics are worth
#        depth                   share of the layers whose norms adapt, from the stem
#        min_entropy, reset_interval, guard, min_balance, memory  when it goes back: see the class
#        min_batch, window       how small batches are normalised; window=0 refuses them
# Options of TestTimeAdaptationHook (custom_hooks.TestTimeAdaptationHook.*)
#        save      True writes the adapted model to adapted.pth
#        budget, interval        points of source accuracy that may be lost, measured now and then
#        target_dataloader       adapt to these images before, with `no_training`: the model is saved
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='TestTimeClassifier', test_time=dict(method='sar'))
custom_hooks = [dict(type='TestTimeAdaptationHook')]
