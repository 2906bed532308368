"""Pure numerics: columns, mergeable profiles, scorers, checks. No I/O, no clock, no files."""
