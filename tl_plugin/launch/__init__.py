"""From a config and flags to a Runner."""
