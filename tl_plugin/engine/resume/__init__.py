"""What a run needs so that an interruption costs it nothing but time."""
