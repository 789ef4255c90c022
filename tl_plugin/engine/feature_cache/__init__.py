"""Computes the features of a frozen backbone once, keeps them on the disk, trains on them."""
