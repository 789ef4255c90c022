"""Malformed inputs, hundreds of them: each ends in a documented error that names the culprit.

By default about 700 cases in some 30 seconds. Ten times as many:

    TL_PLUGIN_FUZZ=10 bash tools/run_tests.sh tests/test_fuzz

The cases are the same in each run (``derandomize``); another number of them is another selection.
"""
