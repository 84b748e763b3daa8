"""Wire protocols as sans-IO cores: octets in, events out, octets back.

A core owns no clock, no dice, no socket and no task. Whoever drives it (a door, the delivery side, a drill, a
fuzzer) reads and writes for it, so that any conversation can be replayed octet by octet.
"""
