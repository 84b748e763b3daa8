"""From what a client asked for to one message: fields or MIME in, a ``Draft`` out, everything fixed (invariant I9)."""
