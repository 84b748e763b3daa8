"""Drills: the situations that hurt others, built on one machine with real processes, and judged against bars.

``pigeonry drill NAME`` runs one. Each prints a line per figure with its bar and fails when one falls short.
"""
