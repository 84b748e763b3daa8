"""The program: configuration, the one place where parts are chosen, processes and commands."""
