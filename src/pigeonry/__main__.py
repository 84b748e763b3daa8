"""``python -m pigeonry`` is the ``pigeonry`` command."""

from pigeonry.app.cli import main

if __name__ == "__main__":
    main()
