"""Predictions by domain, where labels of the source are missing."""

import pytest
import torch

from tests.toy import ToyDataset, target, toy_config, train
from tl_plugin.functional import black_box_shift, total_variation

FIELD = dict(dataset=dict(labels='none', shift=0.5, size=9))
DOMAINS = dict(
    type='DomainValLoop',
    dataloaders=dict(target=FIELD),
    evaluators=dict(target=dict(type='TargetValidator'), source=[]),
)


def _config(folder, *hooks):
    cfg = toy_config(folder, ['dann'], {**target(), 'val_cfg': DOMAINS}, max_epochs=1)
    cfg.custom_hooks = [dict(type=name) for name in hooks]
    return cfg


@pytest.mark.parametrize('hook', ['LabelShiftHook', 'ValidationRiskHook'])
def test_a_source_without_labels_is_refused_before_the_run(tmp_path, hook):
    cfg = _config(tmp_path, hook)
    cfg.val_dataloader.dataset.labels = 'none'
    with pytest.raises(ValueError, match=f'{hook} compares .* the domain source, and no image'):
        train(cfg)
    assert not list(tmp_path.glob('*.pth'))


def test_images_without_a_label_are_left_out(tmp_path, monkeypatch):
    load = ToyDataset.load_data_list

    def some(self):
        items = load(self)
        if self.size == 13:  # the validation's source
            for item in [*items[::3], items[4]]:
                item['gt_label'] = -1
        return items

    monkeypatch.setattr(ToyDataset, 'load_data_list', some)
    cfg = _config(tmp_path, 'LabelShiftHook', 'ValidationRiskHook')
    cfg.val_dataloader.dataset.size = 13
    runner = train(cfg)
    shift = runner.message_hub.log_scalars['val/label_shift'].current()
    risk = runner.message_hub.log_scalars['val/target/label_free/dev_risk'].current()
    scores = {}
    for name, (loader, _) in runner.val_loop.domains.items():
        images = torch.stack([image for batch in loader for image in batch['inputs']])
        data = runner.model.data_preprocessor(dict(inputs=images))
        scores[name] = runner.model.eval()(**data).softmax(1)
    labels = torch.arange(13) % 3
    kept = [i for i in range(13) if i % 3 and i != 4]
    here = labels[kept].bincount(minlength=3) / len(kept)
    there = black_box_shift(scores['source'][kept], labels[kept], scores['target'])
    assert shift == pytest.approx(total_variation(here, there).item(), abs=1e-4)
    assert 0 <= risk <= 200
