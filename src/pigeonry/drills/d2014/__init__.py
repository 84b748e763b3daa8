"""The drill D-2014: nodes, their store and locations go away under load, as they did to others in September 2014.

Bars: nothing acknowledged is lost, each recipient has exactly one final event, and a receiver gets a second copy only
where an attempt was in doubt, flagged. Each step has bars of its own, which stand beside it.
"""

from pigeonry.drills.d2014.drill import FULL, SHORT, STEPS, d2014
from pigeonry.drills.d2014.stage import Form

__all__ = ["FULL", "SHORT", "STEPS", "Form", "d2014"]
