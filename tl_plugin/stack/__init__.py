"""What is installed here, checked and repaired narrowly; checkpoints read as data."""
