# Adversary monitor: says by name when adversarial training goes wrong, and can back off.
#
# What   Every 50 iterations it measures the discriminator's accuracy, the adversarial gradient at
#        the features against the task's, and the features' norm, effective rank and spread, logs
#        them and warns: the discriminator is dead, it is not fooled, the adversary drowns the task,
#        the features have collapsed.
# When   With dann, cdan, cdan_e or mdd: `--strategy dann adversary_monitor`.
# Paper  Effective rank: Roy and Vetterli, EUSIPCO 2007.
# Options of AdversaryMonitorHook (custom_hooks)
#        interval    iterations from one measurement to the next
#        patience    measurements in a row that make a verdict
#        backoff     0.5 halves the reversal coefficient at each verdict; None only warns
#        min_factor  the least product of these factors
#        limits      what is healthy: dead_margin, winning_accuracy, max_ratio, min_spread,
#                    min_rank_share, min_norm_share
custom_imports = dict(imports=['tl_plugin'], allow_failed_imports=False)

custom_hooks = [dict(type='AdversaryMonitorHook')]
