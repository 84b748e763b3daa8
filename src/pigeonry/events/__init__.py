"""Events as people and programs ask for them: consumers of the log, and search over what they built."""
