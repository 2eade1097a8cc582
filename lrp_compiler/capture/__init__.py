"""Models in: a module, a program or a file becomes one exported program."""
