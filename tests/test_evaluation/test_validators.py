import pytest
import torch

from tests.toy import toy_config, train
from tl_plugin.evaluation import TargetValidator
from tl_plugin.functional.validators import information_maximization

KEY = 'target/label_free/information_maximization'


def test_chooses_a_checkpoint_on_a_target_without_labels(tmp_path):
    target = dict(dataset=dict(labels='none', shift=0.5, size=9))
    options = {
        'val_cfg': dict(
            type='DomainValLoop',
            dataloaders=dict(target=target),
            evaluators=dict(target=dict(type='TargetValidator')),
        ),
        'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.save_best': KEY,
        'default_hooks.checkpoint.rule': 'greater',
    }
    runner = train(toy_config(tmp_path, options=options, max_epochs=3))
    history = runner.message_hub.log_scalars[f'val/{KEY}'].data[0]
    best = next(tmp_path.glob('best_*_epoch_*.pth'))
    assert best.stem.endswith(f'epoch_{int(history.argmax()) + 1}')
    assert 'val/source/accuracy/top1' in runner.message_hub.log_scalars
    assert 'val/target/accuracy/top1' not in runner.message_hub.log_scalars


def test_scores_all_images_of_all_batches():
    metric = TargetValidator(['information_maximization'])
    probabilities = torch.rand(7, 3).softmax(1)
    for part in probabilities.split([4, 3]):
        metric.process({}, [dict(pred_score=row) for row in part])
    found = metric.evaluate(7)
    expected = information_maximization(probabilities).item()
    assert found == {'label_free/information_maximization': pytest.approx(expected)}


@pytest.mark.parametrize('scores', [['im'], [], 'entropy'])
def test_unknown_scores(scores):
    with pytest.raises(ValueError, match='has the scores information_maximization'):
        TargetValidator(scores)


def test_one_image_has_no_neighborhood():
    metric = TargetValidator()
    metric.process({}, [dict(pred_score=torch.tensor([0.75, 0.25]))])
    found = metric.evaluate(1)
    assert 'label_free/soft_neighborhood_density' not in found
    assert found['label_free/information_maximization'] == pytest.approx(0)
