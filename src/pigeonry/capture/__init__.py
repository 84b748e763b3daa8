"""The capture sink of a development run: a receiver of our own deliveries, and the inbox that shows them."""
