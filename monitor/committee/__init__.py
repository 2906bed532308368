"""A committee that driftd hosts itself: torch models asked the question that the watched model was asked.

The daemon never imports torch and never parses a model file. What touches files, buckets and models are child
processes (`python -m monitor.committee`), which get a job and give answers over a socket: one fetches files by their
digest, one loads them and scores rows. A child that dies or hangs costs its batch the members' answers and nothing
else; new files are loaded in a new child and take over only once it is ready, so a bad one leaves the old committee at
work.
"""
