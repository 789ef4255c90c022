"""What the hooks that freeze and unfreeze are made of."""
