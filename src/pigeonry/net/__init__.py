"""The real network, clock and dice: what implements ``ports.network`` and ``ports.environment`` outside of tests."""
