"""Measurements that are run by hand; see README.md for what was found."""
