"""What the ``pigeonry`` command can do, one module for each group of commands, imported when it is asked for."""
