"""Stores that forget: the model that the others are compared with."""
