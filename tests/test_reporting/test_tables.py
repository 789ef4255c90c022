from tl_plugin.reporting.tables import make_table, table_text


def test_numbers_stand_right_and_brackets_stay():
    table = make_table(
        'Groups [all]',
        ['name', 'lr', 'weights'],
        [('layer_00/betas=[0.9]', '1e-05', '1,024'), ('head', '0.1', '')],
        footer=('2 groups', '', '1,024'),
    )
    assert table_text(table).splitlines() == [
        'Groups [all]',
        '',
        '| name                 |    lr | weights |',
        '|----------------------|-------|---------|',
        '| layer_00/betas=[0.9] | 1e-05 |   1,024 |',
        '| head                 |   0.1 |         |',
        '|----------------------|-------|---------|',
        '| 2 groups             |       |   1,024 |',
    ]


def test_a_narrow_table_wraps():
    table = make_table('Names', ['name'], [('a b c d e f g h',)])
    assert max(map(len, table_text(table, width=12).splitlines())) <= 12
