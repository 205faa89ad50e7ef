"""Tasks and mixtures: the content that the library works on.

Importing a subpackage registers its tasks; nothing is read or downloaded until a task is used.
"""
