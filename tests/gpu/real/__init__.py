"""Tests that need a real GPU: large arrays, and streams. The simulator skips them."""
