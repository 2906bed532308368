"""Makes `tests` ours: some installed wheels ship a top-level `tests` that would win over a namespace package."""
