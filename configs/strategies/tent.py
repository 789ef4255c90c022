# Tent: adapts a source model to the images that it is tested on, without labels or training data.
#
# What   tools/test.py with it predicts each batch once, batch norms normalising by the batch, then
#        takes one step that lowers the entropy of the predictions, on norm weights alone.
# When   The camera or the weather changed, images come in batches of mixed classes, and there is
#        no time to train. Where a long stream makes it collapse, it goes back to the source model, and
#        says so. In an order by class the batch statistics mislead it from the first batch on, which
#        its guard doesn't see (tools/benchmarks/test_time.py --methods tent): take `sar` there.
# Paper  Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021, arXiv
#        2006.10726. Guard: Press et al., "RDumb", NeurIPS 2023, arXiv 2306.05401, for resets.
# Options of TestTimeClassifier (model.test_time.*)
#        lr, momentum            of the step
#        margin                  0.4 learns from certain images alone
#        prior                   images that the source's batch statistics are worth: 16, say
#        reset_interval          go back every so many batches
#        guard, min_balance, memory  'none', 'reset' or 'source': see the class
#        min_batch, window       how small batches are normalised; window=0 refuses them
# Options of TestTimeAdaptationHook (custom_hooks.TestTimeAdaptationHook.*)
#        save      True writes the adapted model to adapted.pth
#        budget, interval        points of source accuracy that may be lost, measured now and then
#        target_dataloader       adapt to these images before, with `no_training`: the model is saved
# Note   Works with LayerNorm and GroupNorm, too. Training and exporting are those of the model as it
#        is. Of a DomainTestLoop, `source` is predicted first and without adaptation.
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

model = dict(type='TestTimeClassifier', test_time=dict(method='tent'))
custom_hooks = [dict(type='TestTimeAdaptationHook')]
