"""What people and tools do over HTTP: verdicts, labels, words on retraining. `openapi` describes all of it."""
