# The learning-rate schedule of the DANN paper, by the part of training done, beside an adversary.
#
# What   With p from 0 to 1 over training: the config's learning rate / (1 + 10 p)^0.75, step by step.
#        The paper's other schedule, a gradient-reversal weight of 2 / (1 + exp(-10 p)) - 1, is what the
#        adversaries (dann, cdan, cdan_e, mdd) follow by default. It adds none: name one besides. SGD
#        with momentum has to be set in the config; the paper uses lr=0.01, momentum=0.9.
# When   With an adversary (`--strategy dann dann_schedule`), where the config's own schedule, such as
#        steps for a hundred epochs, doesn't fit.
# Paper  Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, arXiv 1505.07818,
#        section 5.2.2.
# Options of InverseDecayLR (param_scheduler.*)
#        alpha, beta  how far and how fast the learning rate falls
# Options of the adversary (model.alignments.dann.*, model.alignments.cdan.*, ...)
#        reversal_weight  where it ends; gamma: how fast it rises
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

# It steps by iteration in any loop, and ends where training ends.
param_scheduler = dict(_delete_=True, type='InverseDecayLR', alpha=10.0, beta=0.75, by_epoch=False)
