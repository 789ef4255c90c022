# DANN as the paper trains it.
_base_ = 'dann.py'
optim_wrapper = dict(optimizer=dict(lr=0.01), clip_grad=None)
