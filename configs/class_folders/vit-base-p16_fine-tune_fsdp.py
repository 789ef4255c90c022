# The same with its weights, gradients and optimizer state divided among the processes (FSDP), for
# models that don't fit one GPU: bash tools/dist_train.sh configs/class_folders/vit-base-p16_fine-tune_fsdp.py 8
_base_ = './vit-base-p16_fine-tune.py'  # over mmpretrain::vision_transformer
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    state_dict_cfg='full',  # whole checkpoints, as every other tool reads them
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        use_orig_params=True,  # layers are frozen and have learning rates of their own
        # A unit of its own for each part of this many weights: a ViT-B block has seven million.
        auto_wrap_policy=dict(type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=5_000_000)))
