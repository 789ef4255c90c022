"""Malformed inputs, hundreds of them: each ends in a documented error that names the culprit.

By default some 1,700 cases in 15 seconds of CPU. Ten times as many:

    TL_PLUGIN_FUZZ=10 bash tools/run_tests.sh tests/test_fuzz

The cases are the same in each run (``derandomize``); another number of them is another selection.
"""
