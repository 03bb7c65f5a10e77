"""The layer next to the operating system: signals and exit lines, files, the device, memory.

Imports no other package of the project.
"""
