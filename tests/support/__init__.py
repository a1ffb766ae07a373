"""Helpers that fixtures, tests, programs and runners share, one module for each subject."""
