"""What the package's speed, accuracy and counts are held to, measured on this machine: ``python -m refimpl.bench``.

Every goal is a ratio or a count, taken in one process and on one thread, beside a check that the routes compared give
the same answer. See :mod:`refimpl.bench.goals` for the list.
"""
