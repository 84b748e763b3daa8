"""Shares of limits that hold over all workers and nodes: how they are dealt, and a member's side of it."""
