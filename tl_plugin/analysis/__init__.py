"""Diagnosis of two domains, and what a config will train."""
