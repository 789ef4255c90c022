"""Check and repair the installed stack, read checkpoints safely, and share small helpers."""
