"""What operators' machines ask: is it alive, is it ready, how does it go."""
