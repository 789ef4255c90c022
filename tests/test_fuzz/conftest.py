from tests.test_fuzz.refusal import seen


def pytest_terminal_summary(terminalreporter):
    """Says how many malformed inputs there were."""
    if seen:
        kinds = ', '.join(f'{count} {kind}' for kind, count in sorted(seen.items()))
        terminalreporter.write_line(f'Refused {sum(seen.values())} malformed inputs: {kinds}')
