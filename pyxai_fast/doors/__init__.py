"""Doors to other packages: a module for each, which says in that package's own terms what we found,
or lets our methods explain what that package can only ask.

None of the packages is imported before it is needed.
"""
