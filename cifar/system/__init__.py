"""What the machine and the operating system ask of a program: signals, files, the device, memory.

Imports nothing else of the project.
"""
