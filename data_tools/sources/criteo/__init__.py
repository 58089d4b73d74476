"""Criteo's text format: compiled parser, and rows in blocks of lines."""
