"""Real servers for tests: `install` says what they are, one module each how they run, `fixtures` how tests get them."""
