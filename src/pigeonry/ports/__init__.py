"""The waist: a typing.Protocol for everything that differs between set-ups.

Each contract is the docstring here; tests/conformance holds every implementation to it.
"""
