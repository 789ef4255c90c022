"""Computes what a frozen trunk puts out once, keeps it on the disk, and trains from there."""
