"""The strategies tried in order of cost, each a real training run, and what came of them."""
