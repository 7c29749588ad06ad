"""One experiment a module: its configuration, its claims, and how they are measured."""
